"""The benchmarks run where there is no GPU: on the tiny model, each prints the keys it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.slow


def run(name: str, *args: str) -> dict[str, float]:
    """The last line of a benchmark's output."""
    command = [sys.executable, f"tests/benchmarks/{name}.py", "--json", *args]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_learner_benchmark_measures_both_sides_of_every_case(tiny_model: Path) -> None:
    found = run("learner", "--model", str(tiny_model), "--steps", "1")
    assert all(found[f"speedup_{case}"] > 0 for case in ("short", "long", "forced"))
    assert 0 < found["overhead"] < 1 and 0 < found["matmul_fraction"] < 1
    sides = [found["long_plain"], found["long_ours"]]
    assert sides[0]["loss"] == pytest.approx(sides[1]["loss"], rel=1e-3), "both sides computed the same"  # type: ignore[index]


def test_the_whole_loop_benchmark_tells_who_waits(recipe: Path) -> None:
    found = run("whole_loop", "--recipe", str(recipe), "--steps", "20")
    assert 0 <= found["engine_waits"] <= 1 and 0 <= found["learner_waits"] <= 1
    assert found["trajectories_per_s"] > 0 and found["steps_per_s"] > 0
