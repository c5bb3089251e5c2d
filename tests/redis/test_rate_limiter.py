"""samples_per_insert never stops both sides, whatever the rules by which items leave the store undrawn."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from buffer.config import BufferConfig
from buffer.errors import ConfigError, WaitTimeout
from buffer.replay import ReplayBuffer
from buffer.types import Trajectory
from deploy.config import parse_config

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]

ADVANCED = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(["prioritized", "uniform", "oldest", "newest", "highest_reward"]),
        "replacement": st.booleans(),
        "newest_fraction": st.sampled_from([0.0, 0.5]),
        "evict": st.sampled_from(["oldest", "lowest_priority", "most_sampled"]),
        "per_prompt_quota": st.sampled_from([0, 2, 5]),
        "max_times_sampled": st.sampled_from([0, 1, 3]),
        "max_staleness": st.sampled_from([-1, 0, 2]),
        "near_duplicate_distance": st.sampled_from([0, 0, 1]),
    }
)
BUFFERS = st.fixed_dictionaries(
    {
        "capacity": st.integers(8, 64),
        "min_size_to_sample": st.integers(1, 16),
        "rows_per_prompt": st.sampled_from([1, 1, 4]),
        "samples_per_insert": st.sampled_from([0.3, 1.0, 2.0, 8.0]),
        "advanced": ADVANCED,
    }
)


def accepted(fields: dict[str, Any], batch: int, push: int) -> BufferConfig:
    """The recipe's buffer, with the narrowest band; skip the example if a recipe can't have these settings."""
    narrowest = 2 * max(batch, int(np.ceil(fields["samples_per_insert"] * push)))
    advanced = fields["advanced"] | {"samples_per_insert_band": float(narrowest), "insert_wait_limit_s": 1e-9}
    values = {
        "buffer": fields | {"advanced": advanced},
        "learner": {"batch_size": batch},
        "actors": {"push_size": push},
    }
    try:
        return parse_config(values, "example").buffer
    except ConfigError:
        assume(False)
        raise


def adds(buffer: ReplayBuffer, trajectories: list[Trajectory]) -> bool:
    """Whether the reward worker got its trajectories in without waiting."""
    try:
        buffer.add(trajectories)
    except WaitTimeout:
        return False
    return True


@given(
    fields=BUFFERS,
    batch=st.integers(1, 24),
    push=st.integers(1, 8),
    strings=st.sampled_from([3, 20, 10_000]),
    prompts=st.sampled_from([1, 5]),
    lag=st.integers(0, 3),
    fresh=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_producer_and_a_learner_never_both_wait(
    client: redis.Redis, make_trajectory: Make, fields: dict[str, Any], batch: int, push: int, strings: int,
    prompts: int, lag: int, fresh: float, seed: int,
) -> None:  # fmt: skip
    buffer = ReplayBuffer(client, accepted(fields, batch, push), uuid4().hex)
    rng = np.random.default_rng(seed)
    n_fresh = round(batch * fresh)

    def draws() -> bool:
        return bool(buffer.draw(n_fresh, batch - n_fresh, rng))

    for version in range(25):
        keys = rng.integers(strings, size=push).tolist()
        pushed = [make_trajectory(k, prompt_id=f"p{k % prompts}", policy_version=max(0, version - lag)) for k in keys]
        producer_waits = not adds(buffer, pushed)
        while producer_waits and draws():
            producer_waits = not adds(buffer, pushed)
        assert not producer_waits or adds(buffer, pushed), "the learner has nothing to draw, and the producer waits"
        for _ in range(int(rng.integers(4))):
            draws()
        buffer.note_version(version)


@pytest.mark.parametrize("rules", [{"max_staleness": 0}, {"max_times_sampled": 1}])
def test_draws_of_trajectories_that_left_are_waived_and_the_band_holds_otherwise(
    make_buffer: MakeBuffer, make_trajectory: Make, rules: dict[str, int]
) -> None:
    buffer = make_buffer(samples_per_insert=4.0, samples_per_insert_band=16.0, insert_wait_limit_s=1e-9, **rules)
    rng = np.random.default_rng(0)
    arrivals = 0
    while adds(buffer, [make_trajectory(arrivals)]):
        arrivals += 1
    assert 4 * arrivals == 4 + 16 + 4, "inserts are ahead by the band"
    buffer.note_version(4)
    drawn = 0
    while rows := buffer.draw(0, 1, rng):
        drawn += len(rows)
    stats = buffer.stats()
    assert stats.size == 0 and drawn == stats.drawn < 4 * arrivals
    assert stats.waived == 4 * arrivals - drawn - 4, "down to the middle of the band"
    for more in range(5):
        assert adds(buffer, [make_trajectory(100 + more, policy_version=4)])
    assert not adds(buffer, [make_trajectory(200, policy_version=4)]), "the band holds again"


@pytest.mark.parametrize(
    "rules",
    [
        {"near_duplicate_distance": 5, "per_prompt_quota": 2},  # every string is near the first
        {"max_record_bytes": 1024},
        {"max_staleness": 0},
    ],
    ids=str,
)
def test_refused_trajectories_do_not_hold_back_the_learner(
    make_buffer: MakeBuffer, make_trajectory: Make, rules: dict[str, int]
) -> None:
    """A policy that repeats itself brings few new strings: the learner goes on with those that there are."""
    buffer = make_buffer(samples_per_insert=1.0, samples_per_insert_band=16.0, insert_wait_limit_s=1e-9, **rules)
    rng, drawn = np.random.default_rng(0), 0
    buffer.add([make_trajectory(0, prompt_id="p", length=4, policy_version=9)])
    length = 2000 if "max_record_bytes" in rules else 4
    for k in range(1, 200):
        buffer.add([make_trajectory(k, prompt_id="p", length=length, policy_version=3)])
        drawn += len(buffer.draw(0, 1, rng))
    assert drawn > 190 and buffer.stats().size <= 2


def test_a_draw_that_replaces_a_single_row_waives_no_draws(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    """An unreadable record is replaced by a round of one row, fewer than rows_per_prompt."""
    buffer = make_buffer(samples_per_insert=8.0, samples_per_insert_band=100.0, rows_per_prompt=4)
    buffer.add([make_trajectory(k, prompt_id="p") for k in range(8)])
    client.hset(buffer.store.keys.payload, bytes.fromhex(make_trajectory(0, prompt_id="p").content_id), b"damaged")
    rng = np.random.default_rng(0)
    assert [len(buffer.draw(0, 4, rng)) for _ in range(6)] == [4] * 6
    assert buffer.stats().waived == 0
