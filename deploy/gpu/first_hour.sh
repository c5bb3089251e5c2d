#!/bin/sh
# The first hour on a GPU: what works, how fast, and how much memory it takes. From the repository's root, after
# `make setup EXTRA=gpu` and `make setup-dev`:
#
#   sh deploy/gpu/first_hour.sh [--small] [--out DIR] [PART ...]
#
# Each part takes at most ten minutes and writes DIR/PART.json (exit code, seconds, result) and DIR/PART.log; parts that
# train also write DIR/PART.gpu.csv, the card's memory and load every 2 s. A part that fails stops no other: run it again
# by its name. --small runs the same parts on a CPU with tiny models, to try the script itself.
set -u
PARTS="environment agreement demo learner loop broadcast scorer two_actors kill_engine kill_learner"
LIMIT_S=600
out=runs/first-hour
small=""
bin=.venv/bin
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
mkdir -p "$out" && out=$(cd "$out" && pwd)
if [ -n "$small" ]; then
  device=cpu
  recipe=$out/tiny.toml
  "$bin/python" -c '
import pathlib, sys, tomli_w
from tests.support import tiny
model, recipe = map(pathlib.Path, sys.argv[1:])
values = tiny.tiny_recipe(tiny.make_tiny_model(model))
recipe.write_text(tomli_w.dumps(values | {"evaluation": {"samples": 500}}))
' "$out/tiny-model" "$recipe" || exit 1
else
  device=cuda
  recipe=demo-gpu
fi

benchmark() { timeout "$LIMIT_S" "$bin/python" "tests/benchmarks/$1.py" $small --json $2; }

train() { # NAME, then settings; leaves the summary as the last line
  name=$1
  shift
  timeout -s INT "$LIMIT_S" "$bin/tributary" train "$recipe" --run "$out/$name-run" --replace --no-dashboard "$@" || return
  summary "$out/$name-run"
}

summary() { "$bin/python" -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1] + "/summary.json"))))' "$1"; }

train_and_kill() { # NAME, process to kill: start a run, wait for ten steps, kill
  run=$out/$1-run
  "$bin/python" -m deploy.cli train "$recipe" --run "$run" --replace --no-dashboard learner.checkpoint_every=5 &
  pid=$!
  until [ "$(grep -c . "$run/metrics.jsonl" 2>/dev/null || echo 0)" -ge 10 ]; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 1
  done
  "$bin/python" -c '
import sys, psutil
own = psutil.Process(int(sys.argv[1])).children(recursive=True)
victims = [p for p in own if p.is_running() and (p.cmdline() or [""])[0].startswith("ray::" + sys.argv[2])]
print("killed", [v.pid for v in victims if not v.kill()])
' "$pid" "$2"
  wait "$pid"
}

environment() {
  nvidia-smi 2>/dev/null || echo "no nvidia-smi"
  "${CC:-cc}" --version 2>/dev/null | head -1 || echo "no C compiler"
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
agreement() { benchmark canary ""; }
demo() { train demo; }
learner() { benchmark learner "--device $device $([ -n "$small" ] || echo --architecture 7b)"; }
loop() { benchmark whole_loop "--device $device"; }
broadcast() { benchmark broadcast ""; }
scorer() { benchmark rewards "--device $device"; }
two_actors() { train two_actors actors.count=2; }
kill_engine() { train_and_kill kill_engine ActorProcess && summary "$out/kill_engine-run"; } # the actor is started again
kill_learner() { # the run ends, and is resumed
  train_and_kill kill_learner LearnerProcess && return 1
  timeout -s INT "$LIMIT_S" "$bin/tributary" train --resume "$out/kill_learner-run" && summary "$out/kill_learner-run"
}

failed=""
for part in ${*:-$PARTS}; do
  echo "== $part"
  began=$(date +%s)
  watcher=""
  if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu --format=csv,noheader -l 2 >"$out/$part.gpu.csv" 2>/dev/null &
    watcher=$!
  fi
  "$part" >"$out/$part.log" 2>&1
  code=$?
  [ -z "$watcher" ] || kill "$watcher"
  "$bin/python" -c '
import json, sys
part, code, seconds, log, file = sys.argv[1:]
lines = [line for line in open(log, errors="replace").read().splitlines() if line.strip()]
try:
    result = json.loads(lines[-1]) if lines else None
except ValueError:
    result = None
row = {"part": part, "exit": int(code), "seconds": int(seconds), "result": result}
if result is None:
    row["last_line"] = lines[-1] if lines else ""
json.dump(row, open(file, "w"), indent=1)
print("   exit", code, "after", seconds, "s:", json.dumps(result)[:200] if result else row["last_line"][:200])
' "$part" "$code" "$(($(date +%s) - began))" "$out/$part.log" "$out/$part.json"
  [ "$code" = 0 ] || failed="$failed $part"
done
[ -z "$failed" ] || { echo "failed:$failed (see $out/PART.log)"; exit 1; }
