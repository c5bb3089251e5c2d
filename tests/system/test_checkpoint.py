"""A killed learner continues from its checkpoint and ends with the same bits as one that was never killed."""

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from buffer.errors import ConfigError, TributaryError
from buffer.replay import ReplayBuffer
from buffer.types import PolicySpec
from learner.checkpoint import Checkpoints, Numbers, State
from learner.checkpointer import Checkpointer
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from learner.priority import Priorities
from tests.support.learner_process import batch, learn
from tests.support.processes import ROOT
from tests.support.tiny import TinyTask, tiny_spec

STEPS = 60


def start(model: Path, checkpoints: Path, redis_url: str, result: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "tests/support/learner_process.py", str(model), str(checkpoints), redis_url, str(STEPS), str(result)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def kill_when(process: subprocess.Popen[bytes], timing: str, checkpoints: Path, step: int) -> None:
    """kill -9 once step `step` is saved: at once, or in the middle of the next write."""

    def reached() -> bool:
        names = [p.name for p in checkpoints.glob("step-*")] if checkpoints.is_dir() else []
        if timing == "during a save":
            return any(n.endswith(".partial") and int(n[5:13]) > step for n in names)
        return any(n.endswith(".safetensors") and int(n[5:13]) >= step for n in names)

    spinning = threading.Event()
    while not reached():
        assert process.poll() is None, "the process ended before it was killed"
        spinning.wait(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_learner_killed_again_and_again_ends_with_the_same_bits(
    tiny_model: Path, redis_url: str, tmp_path: Path
) -> None:
    uninterrupted = learn(tiny_model, tmp_path / "whole", redis_url, STEPS)
    assert uninterrupted == learn(tiny_model, tmp_path / "again", redis_url, STEPS), "the same batches, the same bits"
    folder, result, torn = tmp_path / "killed", tmp_path / "adapter", 0
    for timing, step in [("between", 5), *[("during a save", k) for k in (15, 25, 35)]]:
        process = start(tiny_model, folder, redis_url, result)
        kill_when(process, timing, folder, step)
        torn += len(list(folder.glob("*.partial")))
        newest = Checkpoints(folder, keep=2).newest()
        assert newest is not None and step <= newest.numbers.step < STEPS and not result.exists()
    assert start(tiny_model, folder, redis_url, result).wait(120) == 0
    assert result.read_bytes() == uninterrupted
    assert torn > 0, "at least one kill left a partial file"


def state(step: int, fill: float = 0.0) -> State:
    numbers = Numbers(step=step, version=step, skipped_steps=0, adapter_sha256="0" * 64)
    return State(numbers, {"adapter.a": torch.full((3,), fill)})


def test_the_newest_checkpoints_are_kept_and_partial_files_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    (tmp_path / "step-00000007.partial").write_bytes(b"half")
    for step in (1, 2, 30):
        checkpoints.save(state(step, float(step)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002.safetensors", "step-00000030.safetensors"]
    newest = checkpoints.newest()
    assert newest is not None and newest.numbers.step == 30 and newest.tensors["adapter.a"].tolist() == [30.0] * 3


def test_nan_figures_survive_a_checkpoint(tmp_path: Path) -> None:
    checkpoints, template = Checkpoints(tmp_path, keep=1), state(1)
    rows = [{"step": 1, "var_u": math.nan, "labels": {"valid": math.nan}}]
    checkpoints.save(State(template.numbers.model_copy(update={"rows": rows}), template.tensors))
    newest = checkpoints.newest()
    assert newest is not None and math.isnan(newest.numbers.rows[0]["var_u"])
    assert math.isnan(newest.numbers.rows[0]["labels"]["valid"])


def test_a_damaged_checkpoint_is_reported_with_the_fix(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    checkpoints.save(state(3))
    path = tmp_path / "step-00000003.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="Remove it to continue from the previous checkpoint"):
        checkpoints.newest()


def make(model: Path, replay: ReplayBuffer, folder: Path, rank: int = 16) -> tuple[Learner, TinyTask, list[int]]:
    from tokenizers import Tokenizer

    task = TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
    published: list[int] = []
    learner = Learner(
        LoraPolicy(replace(tiny_spec(model), lora_rank=rank), torch.device("cpu")), replay, LearnerConfig(),
        lambda version, files: published.append(version.number), task.prompts()[0], checkpoints=Checkpoints(folder, keep=2),
    )  # fmt: skip
    return learner, task, published


def test_no_version_number_is_used_twice(tiny_model: Path, replay: ReplayBuffer, tmp_path: Path) -> None:
    """Versions after the checkpoint were published and sampled from: the resumed learner starts above them."""
    learner, task, published = make(tiny_model, replay, tmp_path)
    learner.step(batch(task, 0))
    learner.save()
    for step in (1, 2, 3):
        learner.step(batch(task, step))
        learner._publisher.publish(learner.step_number, batch(task, step)[0].trajectory)
    assert published == [0, 1, 2, 3]
    resumed, _, published = make(tiny_model, replay, tmp_path)
    assert resumed.step_number == 1 and published == [4]


def test_no_version_number_is_used_twice_where_there_is_no_checkpoint_yet(
    tiny_model: Path, replay: ReplayBuffer, tmp_path: Path
) -> None:
    make(tiny_model, replay, tmp_path / "first")
    assert make(tiny_model, replay, tmp_path / "second")[2] == [1]


def test_a_checkpoint_of_another_adapter_is_refused(tiny_model: Path, replay: ReplayBuffer, tmp_path: Path) -> None:
    learner, task, _ = make(tiny_model, replay, tmp_path)
    learner.step(batch(task, 0))
    learner.save()
    with pytest.raises(ConfigError, match="model section that the run began with"):
        make(tiny_model, replay, tmp_path, rank=8)


def test_a_checkpoint_whose_adapter_was_changed_is_refused(
    tiny_model: Path, replay: ReplayBuffer, tmp_path: Path
) -> None:
    learner, task, _ = make(tiny_model, replay, tmp_path)
    learner.step(batch(task, 0))
    learner.save()
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved = checkpoints.newest()
    assert saved is not None
    name = next(n for n in saved.tensors if n.startswith("adapter."))
    checkpoints.save(State(saved.numbers, saved.tensors | {name: saved.tensors[name] + 1}))
    with pytest.raises(TributaryError, match="sha256 is not the recorded one"):
        make(tiny_model, replay, tmp_path)


def test_rows_stay_in_checkpoints_until_the_driver_must_have_written_them(
    tiny_spec: PolicySpec, tmp_path: Path
) -> None:
    """A delivery may be lost with the driver, the one before it is on its disk."""
    policy = LoraPolicy(tiny_spec, torch.device("cpu"))
    checkpoints = Checkpoints(tmp_path, 1)
    optimiser = Optimiser(policy.trainable_parameters(), 0.0, 1.0)
    checkpointer = Checkpointer(checkpoints, policy, optimiser, Priorities({"residual": 1.0}, 8.0), True)

    def saved(step: int) -> list[int]:
        checkpointer.add_row({"step": step})
        checkpointer.save(step, 0, 0)
        newest = checkpoints.newest()
        assert newest is not None
        return [row["step"] for row in newest.numbers.rows]

    assert [saved(1), saved(2)] == [[1], [1, 2]]
    checkpointer.delivered(2)
    assert saved(3) == [1, 2, 3]
    checkpointer.delivered(3)
    assert saved(4) == [3, 4]
