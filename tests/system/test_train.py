"""The whole system through its command: Ray actors, vLLM, Redis, a separate learner; on a tiny model with a known posterior."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.processes import Command, until
from tests.tiny import TinyTask

pytestmark = pytest.mark.slow


def rows(run: Path) -> list[dict[str, object]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Command, str]:
    """One complete run, its command and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    command = Command("train", str(recipe), "--run", str(run))
    until(lambda: len(rows(run)) > 5 or command.process.poll() is not None, 240, "training")
    assert len(command.family()) > 5, command.finish()  # remembers who is there, for the test of what is left
    return run, command, command.finish()


def test_the_whole_system_reaches_the_exact_posterior(finished: tuple[Path, Command, str]) -> None:
    run, command, output = finished
    assert command.process.returncode == 0, output
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["after"]["total_variation"] <= 0.05 < 0.3 < metrics["before"]["total_variation"]


def test_a_finished_run_leaves_no_process_and_no_adapter_behind(finished: tuple[Path, Command, str]) -> None:
    assert finished[1].alive() == []
    mark = finished[1].started_at
    left = [p for p in Path(tempfile.gettempdir()).glob("tributary-adapters-*") if p.stat().st_mtime > mark]
    assert left == []


def test_the_summary_holds_what_other_tools_read(finished: tuple[Path, Command, str], tiny_model: Path) -> None:
    run = finished[0]
    summary = json.loads((run / "summary.json").read_text())
    keys = {"task", "seconds", "steps", "trajectories", "trajectories_per_s", "tokens_per_s", "metrics", "log_z", "var_u",
            "staleness", "versions_published", "adapter_sha256", "versions"}  # fmt: skip
    assert keys <= set(summary)
    assert summary["steps"] == 300 and summary["versions_published"] == 151
    assert summary["trajectories"] > 500 and summary["staleness"]["max"] < 100
    task = TinyTask(Tokenizer.from_file(str(tiny_model / "tokenizer.json")))
    assert summary["log_z"] == pytest.approx(task.log_mass()[0], abs=0.1)
    assert summary["var_u"] < 0.05
    assert summary["canary_difference_max"] < 2e-4, "actors served what was published, every time"


def test_a_run_lives_in_one_folder(finished: tuple[Path, Command, str]) -> None:
    run = finished[0]
    for name in (
        "config.toml",
        "metrics.jsonl",
        "summary.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "plots/training.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert [row["step"] for row in rows(run)] == list(range(1, 301))


def test_the_final_adapter_is_one_that_peft_loads(finished: tuple[Path, Command, str], tiny_model: Path) -> None:
    import hashlib

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = finished[0]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run / "adapter"))
    moved = [float(p.abs().sum()) for n, p in model.named_parameters() if "lora_B" in n]
    assert moved and min(moved) > 0
    digest = hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert digest == json.loads((run / "summary.json").read_text())["adapter_sha256"]


def test_evaluate_and_sample_read_a_run_back(finished: tuple[Path, Command, str]) -> None:
    run = finished[0]
    evaluate = Command("evaluate", "--run", str(run), "--samples", "20000")
    assert "total_variation" in evaluate.finish() and evaluate.process.returncode == 0
    metrics = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert metrics["after"]["total_variation"] <= 0.05 < metrics["before"]["total_variation"]
    sample = Command("sample", "--run", str(run), "-n", "7")
    lines = [line for line in sample.finish().splitlines() if line.startswith("draw")]
    assert len(lines) == 7 and {c for line in lines for c in line.removeprefix("draw")} <= set("abc ")


def test_an_adapter_that_was_tampered_with_is_not_evaluated(finished: tuple[Path, Command, str]) -> None:
    path = finished[0] / "adapter" / "adapter_model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        command = Command("sample", "--run", str(finished[0]), "-n", "1")
        assert "sha256" in command.finish() and command.process.returncode == 2
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_cleanly_with_its_adapter(recipe: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    command = Command("train", str(recipe), "learner.steps=100000", "evaluation.samples=64", "--run", str(run))
    until(lambda: len(rows(run)) > 20, 240, "training")
    assert command.pids("valkey-server") and command.pids("ray::"), "there is something to leave behind"
    command.process.send_signal(number)
    output = command.finish(60)
    assert command.process.returncode == 0, output
    summary = json.loads((run / "summary.json").read_text())
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


def test_kill_9_of_the_run_leaves_no_process(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = Command("train", str(recipe), "learner.steps=100000", "evaluation.samples=64", "--run", str(run))
    until(lambda: len(rows(run)) > 5, 240, "training")
    assert command.pids("valkey-server") and command.pids("ray::"), "there is something to leave behind"
    command.kill()
    ours = ("Actor", "Reward", "Learner", "Board", "valkey", "raylet", "gcs_server", "deploy.cli")
    until(
        lambda: not [p for p in command.alive() if any(name in p for name in ours)],
        20,
        "the end of engines, learner, Redis",
    )
    # two small helpers of Ray look for their head for a minute (measured 60 to 64 s) before they give up
    until(lambda: command.alive() == [], 120, "the end of all processes")


def test_a_run_killed_with_kill_9_is_resumed_and_finishes(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["learner.checkpoint_every=10", "learner.steps=150", "evaluation.samples=20000"]
    command = Command("train", str(recipe), *options, "--run", str(run))
    until(lambda: len(rows(run)) > 45, 240, "training")
    command.kill()
    ours = ("Actor", "Reward", "Learner", "Board", "valkey")
    until(lambda: not [p for p in command.alive() if any(name in p for name in ours)], 30, "the end of its processes")
    reached = len(rows(run))
    saved = max(int(path.name[5:13]) for path in (run / "checkpoints").glob("*.safetensors"))
    assert 40 <= saved <= reached + 20

    resumed = Command("train", "--resume", str(run))
    output = resumed.finish()
    assert resumed.process.returncode == 0, output
    assert f"Going on after step {saved}" in output
    assert [row["step"] for row in rows(run)] == list(range(1, 151)), "every step is there once"
    seconds = [float(str(row["elapsed_s"])) for row in rows(run)]
    assert seconds == sorted(seconds), "time goes on where it stopped"
    versions = [int(str(row["version"])) for row in rows(run)]
    assert versions[saved] > versions[saved - 1], "no version number is used twice"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["resumed_after_step"] == saved and summary["steps"] == 150
    assert summary["metrics"]["after"]["total_variation"] < summary["metrics"]["before"]["total_variation"]

    (run / "summary.json").unlink()  # as if it had died after its last step, before it was judged
    (run / "adapter" / "version.json").unlink()
    completed = Command("train", "--resume", str(run), "evaluation.samples=200")
    output = completed.finish()
    assert completed.process.returncode == 0, output
    assert (
        json.loads((run / "summary.json").read_text())["steps"] == 150 and (run / "adapter" / "version.json").exists()
    )

    whoever = Command("train", str(recipe), "--run", str(run), "--continue")
    assert "nothing is left to do" in whoever.finish() and whoever.process.returncode == 0
    again = Command("train", "--resume", str(run))
    assert "has done all its learner.steps = 150" in again.finish() and again.process.returncode == 2


def test_a_run_killed_and_resumed_ends_with_the_bits_of_one_that_was_not(recipe: Path, tmp_path: Path) -> None:
    """One given string, so that every batch is the same whatever is drawn: what differs could only come from the crash."""
    given = tmp_path / "given.jsonl"
    given.write_text('{"response": "a b"}\n')
    options = [
        f'task.demonstrations="{given}"', "learner.objective=sft", "learner.steps=200", "learner.checkpoint_every=1", "learner.decay=cosine",
        "learner.learning_rate=1e-3", "evaluation.samples=16",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = Command("train", str(recipe), *options, "--run", str(whole))
    output = uninterrupted.finish()
    assert uninterrupted.process.returncode == 0, output
    losses = [float(str(row["loss"])) for row in rows(whole)]
    assert losses[-1] < 0.1 < 1.0 < losses[0], "minus log q of the one string: it was learned"

    command = Command("train", str(recipe), *options, "--run", str(killed))
    until(lambda: len(rows(killed)) > 20, 240, "training")
    [learner] = command.pids("ray::LearnerProcess")
    os.kill(learner, signal.SIGKILL)
    command.kill()
    assert len(rows(killed)) < 200
    resumed = Command("train", "--resume", str(killed))
    output = resumed.finish()
    assert resumed.process.returncode == 0 and "Going on after step" in output, output
    name = "adapter/adapter_model.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_two_learner_ranks_train_as_one(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = Command(
        "train", str(recipe), "learner.ranks=2", "learner.steps=200", "learner.cpus=0.25", "--run", str(run)
    )
    until(lambda: len(rows(run)) > 5 or command.process.poll() is not None, 240, "training")
    assert len(command.pids("ray::LearnerProcess")) == 2
    output = command.finish()
    assert command.process.returncode == 0, output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 200 and summary["posterior"]["total_variation"] < 0.05
    assert command.alive() == []


def test_an_actor_that_is_killed_comes_back_and_the_run_goes_on(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = Command("train", str(recipe), "learner.steps=100000", "evaluation.samples=64", "--run", str(run))
    until(lambda: len(rows(run)) > 5, 240, "training")
    [actor] = command.pids("ray::ActorProcess")
    os.kill(actor, signal.SIGKILL)
    until(lambda: command.pids("ray::ActorProcess") not in ([], [actor]), 120, "a new actor process")
    killed_at = len(rows(run))
    fresh = lambda: sum(int(str(row["fresh"])) for row in rows(run)[killed_at + 200 :])  # noqa: E731
    until(lambda: fresh() > 100, 120, "fresh trajectories from the new actor")
    command.process.send_signal(signal.SIGTERM)
    assert command.finish(60) and command.process.returncode == 0
