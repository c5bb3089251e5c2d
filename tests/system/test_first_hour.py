"""The script for the first hour on a GPU runs on a CPU: its own parts here, its benchmarks in test_benchmarks.py."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.benchmark import ROOT

SCRIPT = ROOT / "deploy" / "gpu" / "first_hour.sh"
OWN_PARTS = ["environment", "demo", "two_actors", "kill_engine", "kill_learner"]


@pytest.mark.slow
def test_parts_that_are_no_benchmarks_pass_on_a_cpu(tmp_path: Path) -> None:
    """The parts demo, two_actors and kill_learner are the same functions with other arguments."""
    command = ["sh", str(SCRIPT), "--small", "--out", str(tmp_path), "environment", "kill_engine"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    rows = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("environment", "kill_engine")}
    failed = {part: (tmp_path / f"{part}.log").read_text()[-2000:] for part, row in rows.items() if row["exit"] != 0}
    assert not failed and finished.returncode == 0, failed or finished.stderr
    assert rows["environment"]["result"]["gpus"] == [] and rows["environment"]["result"]["versions"]["torch"]
    assert rows["kill_engine"]["result"]["steps"] == 300, "its run reached its last step"
    assert re.search(r"^killed \[\d+\]$", (tmp_path / "kill_engine.log").read_text(), re.MULTILINE)


def test_every_other_part_is_a_benchmark_that_runs_small() -> None:
    source = SCRIPT.read_text()
    parts = re.search(r'PARTS="([^"]*)"', source)
    assert parts is not None
    benchmarks = dict(re.findall(r"^(\w+)\(\) \{ benchmark (\w+) ", source, flags=re.MULTILINE))
    assert set(parts[1].split()) == {*OWN_PARTS, *benchmarks}
    assert all((ROOT / "tests" / "benchmarks" / f"{name}.py").is_file() for name in benchmarks.values())


@pytest.mark.parametrize(("arguments", "words"), [(["--fast"], "unknown option"), (["nothing"], "unknown part")])
def test_a_wrong_argument_is_named_before_anything_starts(arguments: list[str], words: str, tmp_path: Path) -> None:
    finished = subprocess.run(["sh", str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 2 and words in finished.stderr and not list(tmp_path.iterdir())
