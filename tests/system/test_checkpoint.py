"""A killed learner continues from its checkpoint and ends with the same bits as one that was never killed."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from buffer.config import BufferConfig
from buffer.errors import ConfigError, StoreError, TributaryError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
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


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_a_number(path: Path) -> None:
    changed = path.read_bytes().replace(b'skipped_steps\\":0', b'skipped_steps\\":1')
    assert changed != path.read_bytes()
    path.write_bytes(changed)


def put_nan(path: Path) -> None:
    """As a release without the check wrote it."""
    numbers = state(30).numbers.model_dump_json()
    save_file({"optimiser.0.exp_avg": torch.full((3,), math.nan)}, path, metadata={"numbers": numbers})


@pytest.mark.parametrize("damage", [cut_off, empty, flip_a_bit, change_a_number, put_nan])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.newest() is None
    checkpoints.save(state(30))
    newest = tmp_path / "step-00000030.safetensors"
    newest.rename(tmp_path / "later")
    checkpoints.save(state(20, 20.0))
    (tmp_path / "later").rename(newest)
    damage(newest)
    before = checkpoints.newest()
    assert before is not None and before.numbers.step == 20 and before.tensors["adapter.a"].tolist() == [20.0] * 3
    assert len(checkpoints.damaged) == 1 and str(newest) in checkpoints.damaged[0]
    checkpoints.save(state(25))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000025.safetensors", "step-00000030.damaged"]
    damage(tmp_path / "step-00000025.safetensors")
    with pytest.raises(ConfigError, match=r"no checkpoint in .* is intact.*step-00000025.*--replace"):
        checkpoints.newest()


def test_a_checkpoint_of_a_newer_release_is_refused_and_not_called_damaged(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(20))
    newer = state(30).numbers.model_dump() | {"schema_version": 2, "more": 1}
    save_file(
        {"other": torch.zeros(3)}, tmp_path / "step-00000030.safetensors", metadata={"numbers": json.dumps(newer)}
    )
    with pytest.raises(ConfigError, match=r"step-00000030.* is of version 2 .* newer release.*the file is intact"):
        checkpoints.newest()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_does_not_replace_the_last_good_one(tmp_path: Path, value: float) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(20))
    with pytest.raises(TributaryError, match=r"after step 30 the learner's adapter\.a is not finite.*--resume"):
        checkpoints.save(state(30, value))
    newest = checkpoints.newest()
    assert newest is not None and newest.numbers.step == 20 and checkpoints.damaged == []


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


def test_of_two_learners_on_one_run_exactly_one_commits(
    tiny_model: Path, replay: ReplayBuffer, redis_url: str, tmp_path: Path
) -> None:
    """As where a run's folder was copied, or where a learner that hung comes back after another one took its place."""
    first, task, of_first = make(tiny_model, replay, tmp_path / "first")
    first.step(batch(task, 0))
    first.save()
    other = ReplayBuffer(connect(redis_url), BufferConfig(min_size_to_sample=1), replay.store.name)
    second, _, of_second = make(tiny_model, other, tmp_path / "second")
    assert (of_first, of_second) == ([0], [1])
    first.step(batch(task, 1))
    for commit in (first.save, lambda: first._publisher.publish(2, batch(task, 1)[0].trajectory)):
        with pytest.raises(StoreError, match="another learner has taken over buffer"):
            commit()
    assert of_first == [0] and [p.name for p in (tmp_path / "first").iterdir()] == ["step-00000001.safetensors"]
    assert other.newest_version() == 1
    second.step(batch(task, 0))
    second.save()
    second._publisher.publish(1, batch(task, 0)[0].trajectory)
    assert of_second == [1, 2] and other.newest_version() == 2


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
