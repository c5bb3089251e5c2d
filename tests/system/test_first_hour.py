"""The script for the first hour on a GPU runs on a CPU: its own parts here, its benchmarks in test_benchmarks.py."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.config import load_recipe
from deploy.driver import check_machine
from deploy.driver.check_model import ModelFiles
from deploy.driver.nvidia_gpus import Gpu
from tests.support.benchmark import ROOT
from tests.support.processes import until

SCRIPT = ROOT / "deploy" / "gpu" / "first_hour.sh"
OWN_PARTS = ["environment", "model", "demo", "two_actors", "kills"]
H100 = Gpu("NVIDIA H100 80GB HBM3", "81559 MiB", "580.65.06", "9.0")
ALL_PARTS = re.findall(r'PARTS="([^"]*)"', SCRIPT.read_text())[0].split()
SHIM = """#!/bin/sh
# Python or tributary: runs what needs no GPU, and notes the rest.
case "$1 ${2:-}" in
  -c* | *part_result*) exec PYTHON "$@" ;;
esac
printf '%s\\n' "$@" END >> LOG
case "$1" in BEHAVIOUR esac
"""


def shims(folder: Path, behaviour: str = "") -> dict[str, str]:
    """The environment in which the script calls a Python and a tributary that note their arguments in `folder`/log."""
    text = SHIM.replace("PYTHON", sys.executable).replace("LOG", str(folder / "log")).replace("BEHAVIOUR", behaviour)
    (folder / "venv" / "bin").mkdir(parents=True)
    for name in ("python", "tributary"):
        (folder / "venv" / "bin" / name).write_text(text)
        (folder / "venv" / "bin" / name).chmod(0o700)
    return os.environ | {"VENV": str(folder / "venv"), "PYTHONPATH": str(ROOT)}


def recipes_of(command: list[str], folder: Path, patch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The recipes, each with its overrides, that a command of the script gives a run."""
    if command[0].startswith("tests/benchmarks/"):
        spec = importlib.util.spec_from_file_location(f"first_hour_{Path(command[0]).stem}", ROOT / command[0])
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        patch.setattr(sys, "argv", command)
        return [module.recipe_of(module.arguments(), folder)] if hasattr(module, "recipe_of") else []
    words = command[2:] if command[:2] == ["-m", "deploy.cli"] else command
    starts = words[0] in ("train", "validate") and "--resume" not in words
    return [(words[1], [word for word in words[2:] if "=" in word])] if starts else []


def test_every_recipe_of_every_part_fits_on_one_h100_with_the_build_for_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [part for part in ALL_PARTS if part != "environment"]
    script = ["sh", str(SCRIPT), "--out", str(tmp_path / "out"), *parts]
    subprocess.run(script, cwd=ROOT, capture_output=True, timeout=120, env=shims(tmp_path))
    commands = [part.splitlines() for part in (tmp_path / "log").read_text().split("END\n") if part]
    assert commands[0] == ["model", "get", "smollm2-135m-instruct"], "the model comes before all that need it"

    for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # benchmarks set these for Ray
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(check_machine, "find_gpus", lambda: [H100])
    monkeypatch.setattr(check_machine, "_version", {"vllm": "0.32.0"}.get)
    shapes = {
        "model.layers.0.self_attn.q_proj.weight": (576, 576),
        "model.layers.0.mlp.up_proj.weight": (134_000_000, 1),
    }
    checked = []
    for command in commands:
        for recipe, overrides in recipes_of(command, tmp_path, monkeypatch):
            config = load_recipe(recipe, overrides)
            assert config.model.name == "smollm2-135m-instruct", "the one that the part `model` fetches"
            assert config.actors.gpus and config.learner.gpus and config.rewards.gpus, command
            checked.append((recipe, config.actors.count))
            config = config.model_copy(update={"model": config.model.model_copy(update={"lora_targets": ["q_proj"]})})
            check_machine.check_machine(config, ModelFiles({}, shapes))
    assert sorted(checked) == [("continue", 1), *[("demo", 1)] * 2, *[("demo-gpu", 1)] * 3, ("demo-gpu", 2)]


def test_a_part_that_is_stopped_leaves_what_there_was_and_lines_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    """The learner's benchmark hangs, and a run ends before its tenth step."""
    hang = (
        """tests/*) echo '{"wide_plain": {"seconds": 1.5}}' >&2; sleep 60 ;;"""
        """ -m) mkdir -p $OUT/kills-run; echo '{"fresh": 1}' > $OUT/kills-run/metrics.jsonl; sleep 4 ;;"""
    )
    out = tmp_path / "out"
    (out / "kills-run").mkdir(parents=True)
    (out / "kills-run" / "metrics.jsonl").write_text('{"fresh": 1}\n' * 20)
    environment = shims(tmp_path, hang) | {"LIMIT_S": "33", "OUT": str(out)}
    script = ["sh", str(SCRIPT), "--out", str(out), "learner", "kills"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=50, env=environment)
    assert done.returncode == 1 and "failed: learner kills" in done.stdout, done.stdout + done.stderr
    learner, killed = (json.loads((out / f"{part}.json").read_text()) for part in ("learner", "kills"))
    assert learner["exit"] == 124 and learner["so_far"] == [{"wide_plain": {"seconds": 1.5}}]
    assert killed["exit"] == 3 and killed["so_far"] == [{"fresh": 1}], "there was no process to kill"
    assert "Illegal number" not in (out / "kills.log").read_text()


def test_the_file_of_a_part_is_there_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "loop.log").write_text('a warning\n{"version": 10}\n{"version": 13}\nstill running\n')
    began = str(time.time() - 5)
    writer = subprocess.Popen([sys.executable, str(SCRIPT.parent / "part_result.py"), str(tmp_path), "loop", began])
    until(lambda: (tmp_path / "loop.json").is_file(), 30.0, "the file")
    writer.kill()
    writer.wait()
    row = json.loads((tmp_path / "loop.json").read_text())
    assert row["exit"] is None and 4 <= row["seconds"] < 60 and row["result"] is None
    assert row["so_far"] == [{"version": 10}, {"version": 13}] and row["last_line"] == "still running"


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([str(shellcheck), str(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_parts_that_are_no_benchmarks_pass_on_a_cpu(tmp_path: Path) -> None:
    command = ["sh", str(SCRIPT), "--small", "--out", str(tmp_path), *OWN_PARTS]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    rows = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in OWN_PARTS}
    failed = {part: (tmp_path / f"{part}.log").read_text()[-2000:] for part, row in rows.items() if row["exit"] != 0}
    assert not failed and finished.returncode == 0, failed or finished.stderr
    assert rows["environment"]["result"]["gpus"] == [] and rows["environment"]["result"]["versions"]["torch"]
    assert [rows[part]["result"]["steps"] for part in ("demo", "two_actors", "kills")] == [120] * 3, "to the last step"
    log = (tmp_path / "kills.log").read_text()
    assert re.findall(r"^killed (\w+) \[\d+\]$", log, re.MULTILINE) == ["ActorProcess", "LearnerProcess"]
    assert "The learner's process died. It is back, and goes on after step" in " ".join(log.split())


def test_every_other_part_is_a_benchmark_that_runs_small() -> None:
    benchmarks = dict(re.findall(r"^(\w+)\(\) \{ .*?benchmark (\w+)", SCRIPT.read_text(), flags=re.MULTILINE))
    assert set(ALL_PARTS) == {*OWN_PARTS, *benchmarks}
    assert all((ROOT / "tests" / "benchmarks" / f"{name}.py").is_file() for name in benchmarks.values())


@pytest.mark.parametrize(("arguments", "words"), [(["--fast"], "unknown option"), (["nothing"], "unknown part")])
def test_a_wrong_argument_is_named_before_anything_starts(arguments: list[str], words: str, tmp_path: Path) -> None:
    finished = subprocess.run(["sh", str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 2 and words in finished.stderr and not list(tmp_path.iterdir())
