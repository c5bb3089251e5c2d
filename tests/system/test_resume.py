"""Killed runs resume; learner ranks act as one."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.processes import Command, rows_of, until
from tests.support.tiny import PACED

pytestmark = pytest.mark.slow


def test_a_run_killed_with_kill_9_leaves_no_process_and_is_resumed_and_finishes(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["learner.checkpoint_every=10", "learner.steps=300", "evaluation.samples=400"]
    command = Command("train", str(recipe), *options, "--run", str(run))
    until(lambda: len(rows_of(run)) > 45, 240, "training")
    assert command.pids("valkey-server") and command.pids("ray::"), "there are processes to leave behind"
    command.kill()
    ours = ("Actor", "Reward", "Learner", "AdapterStore", "valkey", "raylet", "gcs_server", "deploy.cli")
    until(lambda: not [p for p in command.alive() if any(name in p for name in ours)], 120, "the end of its processes")
    reached = len(rows_of(run))
    saved = max(int(path.name[5:13]) for path in (run / "checkpoints").glob("*.safetensors"))
    assert 40 <= saved <= reached + 20

    resumed = Command("train", "--resume", str(run))
    output = resumed.finish()
    assert resumed.process.returncode == 0, output
    assert f"Resuming after step {saved}" in output
    assert "400 samples per prompt, drawn by an earlier run" in " ".join(output.split()), "of the base model"
    assert [row["step"] for row in rows_of(run)] == list(range(1, 301)), "every step is recorded once"
    seconds = [float(str(row["elapsed_s"])) for row in rows_of(run)]
    assert seconds == sorted(seconds), "elapsed time continues where it stopped"
    versions = [int(str(row["version"])) for row in rows_of(run)]
    assert versions[saved] > versions[saved - 1], "no version number is used twice"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["resumed_after_step"] == saved and summary["steps"] == 300
    assert summary["metrics"]["after"]["total_variation"] < summary["metrics"]["before"]["total_variation"]

    (run / "summary.json").unlink()  # as if the run had died after its last step, before its evaluation
    (run / "adapter" / "version.json").unlink()
    completed = Command("train", "--resume", str(run), "evaluation.samples=200")
    output = completed.finish()
    assert completed.process.returncode == 0, output
    assert (
        json.loads((run / "summary.json").read_text())["steps"] == 300 and (run / "adapter" / "version.json").exists()
    )

    finished = Command("train", str(recipe), "--run", str(run), "--continue")
    assert "there is nothing left to do" in " ".join(finished.finish().split()) and finished.process.returncode == 0
    again = Command("train", "--resume", str(run))
    assert "has done all its learner.steps = 300" in " ".join(again.finish().split()) and again.process.returncode == 2
    # two small helpers of Ray look for their head node for a minute (measured 60 to 64 s) before they exit
    until(lambda: command.alive() == [], 120, "the end of all processes")


def test_a_killed_learner_starts_again_in_place_and_ends_with_the_same_bits_as_an_uninterrupted_one(
    recipe: Path, tmp_path: Path
) -> None:
    """Every batch is the same single given string, so only the crash could make a difference."""
    given = tmp_path / "given.jsonl"
    given.write_text('{"response": "a b"}\n')
    options = [
        f'task.demonstrations="{given}"', "learner.objective=sft", "actors.engine=simulated", "learner.steps=400", "learner.checkpoint_every=1", "learner.advanced.decay=cosine",
        "learner.learning_rate=2e-3", "evaluation.samples=16", "learner.reward_temperature_end=0.5", "learner.reward_temperature_steps=800", "--no-dashboard",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = Command("train", str(recipe), *options, "--run", str(whole))
    output = uninterrupted.finish()
    assert uninterrupted.process.returncode == 0, output
    assert json.loads((whole / "summary.json").read_text())["reward_temperature"] == 0.75, "steps end half way down"
    assert "T = 0.75, which training had reached; the recipe ends at 0.5." in " ".join(output.split())
    losses = [float(str(row["loss"])) for row in rows_of(whole)]
    assert losses[-1] < 0.1 < 1.0 < losses[0], "minus log q of the one string falls: it was learned"

    command = Command("train", str(recipe), *options, "--run", str(killed))
    until(lambda: len(rows_of(killed)) > 20, 240, "training")
    [learner] = command.pids("ray::LearnerProcess")
    os.kill(learner, signal.SIGKILL)
    assert len(rows_of(killed)) < 400
    output = command.finish()
    assert command.process.returncode == 0, output
    assert "The learner's process died. It is back, and goes on after step" in output
    assert "died without a word, as by SIGKILL" in (killed / "log.jsonl").read_text()
    assert [row["step"] for row in rows_of(killed)] == list(range(1, 401)), "every step is recorded once"
    name = "adapter/adapter_model.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_two_learner_ranks_train_as_one(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = Command(
        "train",
        str(recipe),
        PACED,
        "--no-dashboard",
        "learner.ranks=2",
        "learner.steps=300",
        "learner.advanced.cpus=0.25",
        "actors.engine=simulated",
        "actors.advanced.simulated_rate=200.0",
        "evaluation.samples=0",
        "--run",
        str(run),
    )
    until(lambda: len(rows_of(run)) > 5 or command.process.poll() is not None, 240, "training")
    assert len(command.pids("ray::LearnerProcess")) == 2
    output = command.finish()
    assert command.process.returncode == 0, output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 300 and summary["posterior"]["total_variation"] < 0.05
    assert summary["metrics"] == {"before": None, "after": None} and not (run / "evaluation.json").exists()
    assert command.alive() == []
