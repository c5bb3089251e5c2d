"""Signals and kills: the adapter is kept and no process is left behind."""

import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import Command, rows_of, until
from tests.support.small_disk import resize, small_disk

pytestmark = pytest.mark.slow


def test_a_signal_ends_a_run_cleanly_with_its_adapter(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["learner.steps=100000", "evaluation.samples=64"]
    command = Command("train", str(recipe), *options, "--run", str(run))
    until(lambda: len(rows_of(run)) > 20, 240, "training")
    assert end_by(signal.SIGTERM, command, run)["stopped_by"] == "SIGTERM"


def end_by(number: signal.Signals, command: Command, run: Path) -> dict[str, Any]:
    """Send a signal to a run that trains, look at all that it leaves, and return its summary."""
    assert command.pids("valkey-server") and command.pids("ray::"), "there are processes to leave behind"
    reached = len(rows_of(run))
    command.process.send_signal(number)
    output = command.finish(180)
    assert command.process.returncode == 0, output
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    assert f"{number.name}: finishing the step, then writing the adapter; again to stop now" in output
    assert "(raylet)" not in output, "Ray says nothing to the person"
    assert "learner: ready after" in output and "reward workers: ready after" in output
    assert reached <= summary["steps"] < 100000
    assert (run / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    assert command.alive() == []
    return summary


def test_ctrl_c_while_the_engines_start_ends_the_run_at_once(recipe: Path, tmp_path: Path) -> None:
    command = Command("train", str(recipe), "--run", str(tmp_path / "run"))
    until(
        lambda: bool(command.pids("ray::ActorProcess")) or command.process.poll() is not None, 240, "an actor process"
    )
    command.process.send_signal(signal.SIGINT)
    output = command.finish(45)
    assert command.process.returncode == 0 and "before training began" in output
    until(lambda: command.alive() == [], 60, "the end of all processes")


def test_sigterm_to_all_while_starting__ends_with_one_sentence_and_exit_0(recipe: Path, tmp_path: Path) -> None:
    """Ray's head node ends before the driver, which then must not call it: such a call waits for 60 s and exits."""
    command = Command("train", str(recipe), "--run", str(tmp_path / "run"), RAY_raylet_start_wait_time_s="120")
    until(
        lambda: bool(command.pids("ray::ActorProcess")) or command.process.poll() is not None, 240, "an actor process"
    )
    for process in command.family():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    output = command.finish(60)
    assert command.process.returncode == 0, output
    assert output.endswith("Stopped by SIGTERM before training began: nothing was learned.\n")
    until(lambda: command.alive() == [], 60, "the end of all processes")


def lose(title: str, by: signal.Signals, command: Command, run: Path) -> int:
    """Signal a process with this title; returns once there is another one, and fresh strings: its process id."""
    before = set(command.pids(title))
    lost = min(before)
    os.kill(lost, by)
    until(lambda: lost not in command.pids(title) and bool(set(command.pids(title)) - before), 240, f"another {title}")
    [new] = set(command.pids(title)) - before
    wait_for_fresh_strings(run)
    return new


def wait_for_fresh_strings(run: Path) -> None:
    """Return once the learner draws strings that were sampled after this call."""
    reached = len(rows_of(run))
    until(lambda: sum(row["fresh"] for row in rows_of(run)[reached + 50 :]) > 100, 240, "fresh trajectories")


def test_a_hung_actor_a_hung_reward_worker_and_a_killed_adapter_store_are_replaced(
    recipe: Path, tmp_path: Path
) -> None:
    """A stopped process is not dead: Ray alone would wait for it for ever. An actor that keeps dying is left out."""
    run = tmp_path / "run"
    limits = ["actors.advanced.silent_limit_s=5.0", "rewards.advanced.silent_limit_s=5.0", "rewards.time_limit_s=0.5"]
    two_actors = ["actors.engine=simulated", "actors.count=2", "actors.advanced.max_restarts=1"]
    options = [*two_actors, "learner.steps=99999", *limits]
    command = Command("train", str(recipe), *options, "evaluation.samples=0", "--run", str(run))
    until(lambda: len(rows_of(run)) > 5 or command.process.poll() is not None, 240, "training")
    mortal = lose("ray::ActorProcess", signal.SIGSTOP, command, run)
    lose("ray::RewardProcess", signal.SIGSTOP, command, run)
    os.kill(mortal, signal.SIGKILL)
    until(lambda: "is not started again" in (run / "log.jsonl").read_text(), 240, "the end of its restarts")
    lose("ray::AdapterStore", signal.SIGKILL, command, run)
    assert end_by(signal.SIGINT, command, run)["stopped_by"] == "SIGINT"
    log = (run / "log.jsonl").read_text()
    assert "the adapter store died and is back" in log
    assert re.search(r"reward-0 did not answer for \d+ s: it was ended", log) and "reward-0 died and" in log
    [number] = re.findall(r"actor-(\d) did not answer for \d+ s: it was ended", log)
    limit = r"more often than actors\.advanced\.max_restarts = 1 allows"
    assert re.search(
        rf"actor-{number} is not started again: actor-{number} died 2 times within an hour or in a row, {limit}", log
    )


def test_a_run_waits_for_room_on_a_full_disk_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path, mib=4096) as disk:
        run = disk / "run"
        options = ["actors.engine=simulated", "learner.steps=99999", "evaluation.samples=0"]
        command = Command("train", str(recipe), *options, "learner.checkpoint_every=20", "--run", str(run))
        until(lambda: len(rows_of(run)) > 5 or command.process.poll() is not None, 240, "training")
        used = shutil.disk_usage(disk).used // 1024
        resize(disk, used + 512)  # the buffer and the checkpoints grow faster
        until(lambda: shutil.disk_usage(disk).free < 65536 or command.process.poll() is not None, 120, "a full disk")
        since = time.monotonic()
        until(lambda: time.monotonic() - since > 5, 10, "some seconds on it")
        reached = len(rows_of(run))
        until(lambda: time.monotonic() - since > 8, 10, "some more")
        assert command.process.poll() is None and len(rows_of(run)) <= reached + 1
        resize(disk, 4096 * 1024)
        until(lambda: len(rows_of(run)) > reached + 50 or command.process.poll() is not None, 120, "more steps")
        command.process.send_signal(signal.SIGINT)
        output = command.finish(180)
        assert command.process.returncode == 0, output
        assert f"the disk of {run} is full: free some space, and the run goes on" in output
        summary = json.loads((run / "summary.json").read_text())
        assert summary["steps"] == len(rows_of(run)) and [row["step"] for row in rows_of(run)] == list(
            range(1, summary["steps"] + 1)
        )
        assert command.alive() == []
