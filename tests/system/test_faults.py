"""Signals and kills: the adapter is kept and no process is left behind."""

import json
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Command, rows_of, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "engine"), [(signal.SIGTERM, "vllm"), (signal.SIGINT, "simulated")])
def test_a_signal_ends_a_run_cleanly_with_its_adapter(
    recipe: Path, tmp_path: Path, number: signal.Signals, engine: str
) -> None:
    run = tmp_path / "run"
    options = ["learner.steps=100000", "evaluation.samples=64", f"actors.engine={engine}"]
    command = Command("train", str(recipe), *options, "--run", str(run))
    until(lambda: len(rows_of(run)) > 20, 240, "training")
    assert command.pids("valkey-server") and command.pids("ray::"), "there are processes to leave behind"
    command.process.send_signal(number)
    output = command.finish(60)
    assert command.process.returncode == 0, output
    summary = json.loads((run / "summary.json").read_text())
    assert f"{number.name}: finishing the step, then writing the adapter; again to stop now" in output
    assert "(raylet)" not in output, "Ray says nothing to the person"
    assert "learner: ready after" in output and "reward workers: ready after" in output
    assert summary["stopped_by"] == number.name and 20 < summary["steps"] < 100000
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert command.alive() == []


def test_ctrl_c_while_the_engines_start_ends_the_run_at_once(recipe: Path, tmp_path: Path) -> None:
    command = Command("train", str(recipe), "--run", str(tmp_path / "run"))
    until(
        lambda: bool(command.pids("ray::ActorProcess")) or command.process.poll() is not None, 120, "an actor process"
    )
    command.process.send_signal(signal.SIGINT)
    output = command.finish(20)
    assert command.process.returncode == 0 and "before training began" in output
    until(lambda: command.alive() == [], 20, "the end of all processes")


def test_sigterm_to_all_while_starting__ends_with_one_sentence_and_exit_0(recipe: Path, tmp_path: Path) -> None:
    """Ray's head node ends before the driver, which then must not call it: such a call waits for 60 s and exits."""
    command = Command("train", str(recipe), "--run", str(tmp_path / "run"), RAY_raylet_start_wait_time_s="120")
    until(
        lambda: bool(command.pids("ray::ActorProcess")) or command.process.poll() is not None, 240, "an actor process"
    )
    for process in command.family():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    output = command.finish(40)
    assert command.process.returncode == 0, output
    assert output.endswith("Stopped by SIGTERM before training began: nothing was learned.\n")
    until(lambda: command.alive() == [], 20, "the end of all processes")
