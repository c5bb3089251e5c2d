#!/bin/sh
# The first hour on a GPU: what works, how fast, and how much memory it takes. From the repository's root:
#
#   make setup-dev EXTRA=gpu VENV=.venv-gpu
#   VENV=.venv-gpu sh deploy/gpu/first_hour.sh [--small] [--out DIR] [PART ...]
#
# Each part takes at most ten minutes (LIMIT_S seconds) and writes DIR/PART.log and, from its start on, DIR/PART.json: exit
# code (null while it runs), seconds, result, or what there is so far. DIR/PART.gpu.csv has the card's memory and load
# every 2 s. A part that fails stops no other: run it again by its name. --small runs the same parts on a CPU with tiny
# models, to try the script itself. Only the part `model` needs a network, and only where the model is not there yet.
set -u
PARTS="environment model agreement demo learner loop broadcast scorer two_actors kills"
LIMIT_S=${LIMIT_S:-600}
GRACE_S=30 # from the interrupt at the end of a part to the kill
out=runs/first-hour
small=""
bin=${VENV:-.venv}/bin
while [ $# -gt 0 ]; do
  case $1 in
    --small) small=--small ;;
    --out) out=$2; shift ;;
    -*) echo "unknown option $1; options: --small, --out DIR" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
for part in "$@"; do
  case " $PARTS " in
    *" $part "*) ;;
    *) echo "unknown part $part; parts: $PARTS" >&2; exit 2 ;;
  esac
done
if [ ! -x "$bin/python" ]; then
  echo "no $bin/python: make setup-dev EXTRA=gpu VENV=.venv-gpu, then VENV=.venv-gpu sh $0" >&2
  exit 2
fi
mkdir -p "$out" && out=$(cd "$out" && pwd)
if [ -n "$small" ]; then
  device=cpu
  recipe=$out/tiny.toml
  "$bin/python" -c '
import pathlib, sys, tomli_w
from tests.support import tiny
model, recipe = map(pathlib.Path, sys.argv[1:])
values = tiny.tiny_recipe(tiny.make_tiny_model(model))
values["learner"]["steps"] = 120
recipe.write_text(tomli_w.dumps(values | {"evaluation": {"samples": 500}}))
' "$out/tiny-model" "$recipe" || exit 1
else
  device=cuda
  recipe=demo-gpu
fi

limited() { # a command, for what is left of the part's time
  left=$((LIMIT_S - GRACE_S - $(date +%s) + began))
  timeout -k "$GRACE_S" -s INT "$((left > 1 ? left : 1))" "$@"
}

benchmark() { # NAME, then options
  name=$1
  shift
  limited "$bin/python" "tests/benchmarks/$name.py" $small --json --device "$device" "$@"
}

train() { # NAME, then settings; leaves the summary as the last line
  name=$1
  shift
  limited "$bin/tributary" train "$recipe" --run "$out/$name-run" --replace --no-dashboard "$@" || return
  summary "$out/$name-run"
}

summary() { "$bin/python" -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1] + "/summary.json"))))' "$1"; }

fresh_steps() { # of the run in folder $1, which may not be there yet: steps with fresh strings
  count=$(grep -c '"fresh": [1-9]' "$1/metrics.jsonl" 2>/dev/null)
  echo "${count:-0}"
}

train_and_kill() { # NAME, processes: kill each after ten more steps with fresh strings; the run's exit code, 3: not all killed
  run=$out/$1-run
  shift
  rm -rf "$run" # the steps of an earlier run do not count
  # with a limit on replay the learner waits for the engine; else it would reach its last step without it
  limited "$bin/python" -m deploy.cli train "$recipe" --run "$run" --no-dashboard learner.checkpoint_every=5 \
    buffer.samples_per_insert=4 &
  pid=$!
  spared=""
  for process in "$@"; do
    goal=$(($(fresh_steps "$run") + 10))
    until [ "$(fresh_steps "$run")" -ge "$goal" ]; do
      kill -0 "$pid" 2>/dev/null || break # at the latest when its time is over
      sleep 1
    done
    "$bin/python" -c '
import sys, psutil
own = psutil.Process(int(sys.argv[1])).children(recursive=True)
victims = [p for p in own if p.is_running() and (p.cmdline() or [""])[0].startswith("ray::" + sys.argv[2])]
print("killed", sys.argv[2], [v.pid for v in victims if not v.kill()])
sys.exit(not victims)
' "$pid" "$process" 2>/dev/null || spared="$spared $process"
  done
  wait "$pid"
  code=$?
  [ -z "$spared" ] || { echo "the run ended before its$spared could be killed"; return 3; }
  return "$code"
}

environment() {
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  "${CC:-cc}" --version 2>/dev/null || echo "no C compiler"
  df -h /dev/shm . | cat
  "$bin/tributary" doctor
  "$bin/python" -c '
import importlib.metadata as metadata, json, platform, sysconfig, pathlib, torch
gpus = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
print(json.dumps({
    "python": platform.python_version(), "glibc": platform.libc_ver()[1],
    "python_headers": pathlib.Path(sysconfig.get_paths()["include"], "Python.h").is_file(),
    "gpus": [{"name": g.name, "gib": round(g.total_memory / 2**30, 1), "capability": f"{g.major}.{g.minor}"} for g in gpus],
    "versions": {p: metadata.version(p) for p in ("torch", "ray", "transformers", "peft")},
}))'
}
model() { # the base model of all parts, and the memory that the plan gives each process
  [ -n "$small" ] || limited "$bin/tributary" model get smollm2-135m-instruct || return
  "$bin/tributary" validate "$recipe" --plan
}
agreement() { benchmark canary; }
demo() { train demo; }
learner() { if [ -n "$small" ]; then benchmark learner; else benchmark learner --architecture 7b; fi; }
loop() { benchmark whole_loop --run "$out/loop-run"; }
broadcast() { benchmark broadcast; }
scorer() { benchmark rewards; }
two_actors() { train two_actors actors.count=2 "actors.gpus=$([ -n "$small" ] && echo 0.0 || echo 0.2)"; }
kills() { # each process is started again, and the run goes on to its end
  train_and_kill kills ActorProcess LearnerProcess && summary "$out/kills-run"
}

failed=""
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $PARTS
for part in "$@"; do
  echo "== $part"
  began=$(date +%s)
  rm -f "$out/$part.log"
  "$bin/python" deploy/gpu/part_result.py "$out" "$part" "$began" &
  watchers=$!
  if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader -l 2 >"$out/$part.gpu.csv" 2>/dev/null &
    watchers="$watchers $!"
  fi
  "$part" >"$out/$part.log" 2>&1
  code=$?
  # shellcheck disable=SC2086
  kill $watchers 2>/dev/null
  # shellcheck disable=SC2086
  wait $watchers 2>/dev/null # which would print that they were terminated
  "$bin/python" deploy/gpu/part_result.py "$out" "$part" "$began" "$code"
  [ "$code" = 0 ] || failed="$failed $part"
done
[ -z "$failed" ] || { echo "failed:$failed (see $out/PART.log)"; exit 1; }
