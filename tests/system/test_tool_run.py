"""A target with a tool and a reward that fails now and then, through the whole system: real vLLM, Ray, Redis."""

import json
import sys
from pathlib import Path

import pytest
import tomli_w

from tests.support.processes import Command
from tests.support.tiny import tiny_recipe

pytestmark = pytest.mark.slow


def test_a_tool_and_a_failing_reward_go_through_the_whole_system(tiny_model: Path, tmp_path: Path) -> None:
    path, run = tmp_path / "troubled.toml", tmp_path / "run"
    options = {"max_actions": 3, "prompt": "draw", "writes": {"b": ["c", "c"]}}
    values = tiny_recipe(tiny_model)
    values["task"] = {"name": "tests.support.troubled_task:TroubledTask", "options": options}
    values["buffer"] |= {"samples_per_insert": 5.0}
    values["learner"] |= {"steps": 200, "objective": "group_subtb"}
    values |= {"rewards": {"time_limit_s": 1.0}, "evaluation": {"samples": 2000}}
    path.write_text(tomli_w.dumps(values))
    command = Command("train", str(path), "--run", str(run), "--no-dashboard")
    output = command.finish()
    assert command.process.returncode == 0, output
    summary = json.loads((run / "summary.json").read_text())
    before, after = (summary["metrics"][key] for key in ("before", "after"))
    assert after["total_variation"] <= 0.12 < before["total_variation"]
    assert summary["posterior"]["total_variation"] <= 0.08, "failures cost only their own strings"
    [worker] = summary["rewards"]
    assert worker["last_failure"].startswith("log_reward raised ConnectionError: the scoring service hung up (")
    assert worker["failed"] > 1 and worker["cache_hits"] > 0.5
    assert 1.0 <= worker["slowest_s"] < 5.0, "the endless call was interrupted, in the worker's own process"
    sampled = Command("sample", "--run", str(run), "-n", "20", "--json")
    lines = [json.loads(line) for line in sampled.finish().splitlines() if line.startswith("{")]
    assert len(lines) >= 15 and all("b c c" in line["text"] for line in lines if "b" in line["text"]), sys.executable
