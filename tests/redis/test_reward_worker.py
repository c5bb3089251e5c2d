"""The reward worker on a real buffer: what can't be scored is quarantined with its reason, and nothing else is lost."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import redis

from buffer.errors import RewardError
from buffer.poison_strings import PoisonStrings
from buffer.replay import ReplayBuffer
from buffer.server.redis_server import RedisServer
from buffer.types import IntArray, Prompt, Trajectory, given_trajectory
from rewards.config import RewardConfig
from rewards.task import BaseLogProbs, Task, Terms
from rewards.worker import RewardWorker
from tests.support.processes import ROOT
from tests.support.reward_process import WAYS

MakeBuffer = Callable[..., ReplayBuffer]
PROMPT = Prompt("p", "x", np.array([1], np.int32))


class Picky(Task):
    """Can't score a string with a 7."""

    needs_base_model = False

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        return [PROMPT]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        if 7 in token_ids:
            raise ValueError("no sevens")
        return {"a": np.arange(len(token_ids) + 1), "b": np.ones(len(token_ids) + 1)}


def given(*tokens: int) -> Trajectory:
    return given_trajectory(PROMPT, np.array(tokens, np.int32), "test")


def worker(client: redis.Redis, buffer: ReplayBuffer, name: str, **fields: object) -> RewardWorker:
    config = RewardConfig.model_validate(fields)
    return RewardWorker("reward-0", "picky", Picky(), None, buffer, PoisonStrings(client, name, "reward-0"), config)


def test_what_fails_goes_to_quarantine_with_its_reason_and_the_others_come_in(
    client: redis.Redis, make_buffer: MakeBuffer, name: str
) -> None:
    buffer = make_buffer()
    added = worker(client, buffer, name).score([given(1), given(7), given(2, 3)])
    assert added.added == 2
    [note] = buffer.quarantined()
    assert note.reason.startswith("log_reward raised ValueError: no sevens (") and note.reason.endswith(
        '/test_reward_worker.py, line 36: raise ValueError("no sevens"))'
    )
    assert buffer.stats().refused == {"reward_failed": 1}
    kept = {tuple(row.trajectory.token_ids.tolist()) for row in buffer.draw(3, 0, np.random.default_rng(0))}
    assert kept == {(1,), (2, 3)}


def test_so_many_failures_in_a_row_end_the_run(client: redis.Redis, make_buffer: MakeBuffer, name: str) -> None:
    buffer = make_buffer()
    scoring = worker(client, buffer, name, advanced={"max_failures": 3})
    scoring.score([given(7), given(7, 7), given(1), given(7, 1)])
    with pytest.raises(RewardError, match=r"3 strings in a row .* no sevens.*rewards\.advanced\.max_failures"):
        scoring.score([given(2), given(7, 2), given(7, 3), given(7, 4)])
    assert buffer.stats().size == 2, "what could be scored is kept, that of the last batch too"


def test_samples_are_rated_with_weights_and_those_that_fail_are_left_out(
    client: redis.Redis, make_buffer: MakeBuffer, name: str
) -> None:
    rated = worker(client, make_buffer(), name, weights={"b": 0.5}).score_samples(
        PROMPT, [np.array(t, np.int32) for t in ([1, 2], [7], [])], [-1.0, -2.0, -3.0]
    )
    assert [(s.log_q, s.log_reward, s.terms) for s in rated] == [
        (-1.0, 2.5, {"a": 2.0, "b": 1.0}),
        (-3.0, 0.5, {"a": 0.0, "b": 1.0}),
    ]


def test_weights_are_what_the_buffer_goes_by(client: redis.Redis, make_buffer: MakeBuffer, name: str) -> None:
    from buffer.config import BufferAdvanced, BufferConfig

    config = BufferConfig(min_size_to_sample=1, advanced=BufferAdvanced(sampler="highest_reward"))
    buffer = ReplayBuffer(client, config, name, {"a": -1.0})
    worker(client, buffer, name).score([given(1, 2, 3), given(1), given(1, 2)])
    best = buffer.draw(0, 1, np.random.default_rng(0))[0].trajectory
    assert best.token_ids.tolist() == [1] and best.log_reward[:, -1].tolist() == [1.0, 1.0], "kept unweighted"


@pytest.mark.parametrize("how", WAYS)
def test_a_string_that_ends_the_process_twice_is_not_tried_again_and_costs_nothing_else(
    how: str, server: RedisServer, name: str
) -> None:
    command = [sys.executable, "-m", "tests.support.reward_process", server.url, name, how]
    for _ in range(2):
        first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "added" not in first.stdout, "it ended"
    third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert third.stdout == "added 2, earlier attempts to score it ended the worker's process\n"
    assert how != "loops in C" or "log_reward" in first.stderr, "it says what it was at"


def test_a_string_that_was_being_scored_when_the_process_was_killed_is_scored_by_the_next_one(
    server: RedisServer, name: str
) -> None:
    command = [sys.executable, "-m", "tests.support.reward_process", server.url, name]
    subprocess.run([*command, "is killed"], cwd=ROOT, capture_output=True, timeout=60)
    second = subprocess.run([*command, "survives"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert second.stdout == "added 3\n"


def test_deaths_at_a_string_that_is_scored_in_between_do_not_add_up(client: redis.Redis, name: str) -> None:
    for _ in range(3):
        PoisonStrings(client, name, "reward-0").mark("00ff")
        restarted = PoisonStrings(client, name, "reward-0")
        assert restarted.ids() == frozenset()
        restarted.mark("00ff")
        restarted.mark("0a0a")
        restarted.unmark()


def test_deaths_of_different_workers_at_one_string_add_up(client: redis.Redis, name: str) -> None:
    for worker_name in ("reward-0", "reward-1"):
        PoisonStrings(client, name, worker_name).mark("00ff")
        PoisonStrings(client, name, worker_name)
    assert PoisonStrings(client, name, "reward-2").ids() == {"00ff"}


def test_a_cleared_buffer_forgets_which_strings_were_bad(
    client: redis.Redis, make_buffer: MakeBuffer, name: str
) -> None:
    buffer = make_buffer()
    for _ in range(2):
        PoisonStrings(client, name, "reward-0").mark("00ff")
    assert PoisonStrings(client, name, "reward-0").ids() == {"00ff"}
    assert PoisonStrings(client, name, "reward-1").ids() == {"00ff"}, "all workers know"
    buffer.clear()
    assert PoisonStrings(client, name, "reward-0").ids() == frozenset()
