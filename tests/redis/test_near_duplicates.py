"""Of strings of one prompt that differ in a few tokens, the best is kept."""

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest
import redis

import buffer.near_duplicates
from buffer.codec import decode
from buffer.replay import AddResult, ReplayBuffer
from buffer.store.check import findings, snapshot
from buffer.store.keys import Keys
from buffer.types import Trajectory

MakeBuffer = Callable[..., ReplayBuffer]
Make: TypeAlias = Callable[..., Trajectory]
Kept: TypeAlias = dict[tuple[str, tuple[int, ...]], float]


@pytest.fixture
def string(make_trajectory: Callable[..., Trajectory]) -> Make:
    """A trajectory with these tokens and this log reward, of one prompt."""

    def make(tokens: Sequence[int], log_reward: float, prompt: str = "p", **fields: object) -> Trajectory:
        rewards = np.full((1, len(tokens) + 1), log_reward, np.float32)
        return make_trajectory(
            length=len(tokens),
            prompt_id=prompt,
            token_ids=np.array(tokens, np.int32),
            log_reward=rewards,
            reward_terms=("likelihood",),
            **fields,
        )

    return make


@pytest.fixture
def kept(client: redis.Redis, name: str) -> Callable[[], Kept]:
    """The content of the buffer: (prompt, tokens) -> log reward."""

    def read() -> Kept:
        rows = [decode(record) for record in client.hvals(Keys(name).payload)]
        return {(row.prompt_id, tuple(row.token_ids.tolist())): float(row.log_reward[0, -1]) for row in rows}

    return read


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """Row by row, as in the textbook."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


def by_brute_force(batches: Sequence[Sequence[Trajectory]], distance: int) -> Kept:
    """The strings that the rule keeps of these batches, each compared with all before it."""
    left: Kept = {}
    for row in (row for batch in batches for row in batch):
        string, reward = (row.prompt_id, tuple(row.token_ids.tolist())), float(row.log_reward[0, -1])
        others = [s for s in left if s[0] == string[0] and levenshtein(s[1], string[1]) <= distance]
        if string in left:
            left[string] = reward
        elif all(left[s] < reward for s in others):
            for s in others:
                del left[s]
            left[string] = reward
    return left


def near_buffer(make_buffer: MakeBuffer, distance: int = 1, **fields: object) -> ReplayBuffer:
    return make_buffer(near_duplicate_distance=distance, per_prompt_quota=1000, **fields)


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_what_is_kept_is_what_comparing_each_string_with_all_before_it_leaves(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept], distance: int
) -> None:
    buffer, rng = near_buffer(make_buffer, distance), random.Random(distance)
    batches = [
        [
            string([rng.randrange(3) for _ in range(rng.randint(1, 7))], rng.randint(-9, 0), rng.choice("pq"))
            for _ in range(rng.randint(1, 12))
        ]
        for _ in range(12)
    ]
    results = [buffer.add(batch) for batch in batches]
    assert kept() == by_brute_force(batches, distance)
    for batch, result in zip(batches, results, strict=True):
        assert result.added + result.duplicates + sum(result.refused.values()) == len(batch)
    assert sum(result.refused.get("near_duplicate", 0) for result in results) > 10
    assert findings(snapshot(buffer._client, buffer.store.keys)) == []


def test_the_better_of_two_near_strings_is_kept_whichever_comes_first(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept], client: redis.Redis, name: str
) -> None:
    buffer = near_buffer(make_buffer)
    assert buffer.add([string([1, 2, 3], -2)]) == AddResult(1, 0, 0)
    assert buffer.add([string([1, 2], -3)]) == AddResult(0, 0, 0, {"near_duplicate": 1})
    assert buffer.add([string([1, 2, 3, 4], -2)]).refused == {"near_duplicate": 1}, "an equal one stays out"
    assert buffer.add([string([1, 9, 3], -1)]) == AddResult(1, 0, 0)
    assert kept() == {("p", (1, 9, 3)): -1}
    assert client.hget(Keys(name).counters, "near_duplicates") == b"1"


def test_a_string_that_is_better_than_all_near_it_replaces_all_and_one_that_is_not_replaces_none(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept]
) -> None:
    buffer = near_buffer(make_buffer)
    buffer.add([string([1, 1, 1], -5), string([1, 2, 2], -3)])
    buffer.add([string([1, 1, 2], -4)])
    assert kept() == {("p", (1, 1, 1)): -5, ("p", (1, 2, 2)): -3}
    buffer.add([string([1, 1, 2], -2)])
    assert kept() == {("p", (1, 1, 2)): -2}


def test_an_exact_repeat_is_an_arrival_of_what_is_kept(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept]
) -> None:
    buffer = near_buffer(make_buffer)
    buffer.add([string([1, 2, 3], -2)])
    assert buffer.add([string([1, 2, 3], -2), string([1, 2, 3], -2)]) == AddResult(0, 2, 0)
    assert len(kept()) == 1 and buffer.stats().arrivals == 3


def test_a_repeat_whose_string_is_replaced_later_in_its_batch_does_not_bring_it_back(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept]
) -> None:
    buffer = near_buffer(make_buffer)
    buffer.add([string([1, 2, 3], -2)])
    result = buffer.add([string([1, 2, 3], -2), string([1, 2], -1), string([1, 2, 3], -2)])
    assert result == AddResult(1, 0, 0, {"near_duplicate": 2})
    assert kept() == {("p", (1, 2)): -1}


def test_a_batch_is_compared_with_itself(make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept]) -> None:
    buffer = near_buffer(make_buffer)
    result = buffer.add([string([1, 2], -3), string([1, 2, 3], -2), string([2], -9), string([7, 7, 7], -9)])
    assert result == AddResult(2 + 1, 0, 0, {"near_duplicate": 1})
    assert kept() == {("p", (1, 2, 3)): -2, ("p", (2,)): -9, ("p", (7, 7, 7)): -9}


def test_strings_of_different_prompts_are_never_compared(make_buffer: MakeBuffer, string: Make) -> None:
    buffer = near_buffer(make_buffer, distance=100)
    assert buffer.add([string([1, 2], -1, f"prompt-{k}") for k in range(5)]).added == 5
    assert buffer.add([string([1, 2, 3], -2, f"prompt-{k}") for k in range(5)]).refused == {"near_duplicate": 5}


def test_a_string_that_is_too_stale_to_come_in_replaces_nothing(
    make_buffer: MakeBuffer, string: Make, kept: Callable[[], Kept]
) -> None:
    buffer = near_buffer(make_buffer, max_staleness=2)
    buffer.add([string([1, 2], -3, policy_version=8)])
    assert buffer.add([string([1, 2, 3], -1, policy_version=5)]).refused == {"stale": 1}
    assert kept() == {("p", (1, 2)): -3}
    given = string([1, 2, 3], -1, policy_version=0, adapter_digest="")
    assert buffer.add([given]).added == 1, "a given string has no version and is never stale"


def test_a_kept_string_is_fetched_once_by_each_process(
    make_buffer: MakeBuffer, string: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    near_buffer(make_buffer).add([string([k, k, k], -1) for k in range(20)])
    buffer, fetched = near_buffer(make_buffer), list[int]()
    records = buffer.store.records

    def counted(digests: Sequence[bytes]) -> list[bytes | None]:
        fetched.append(len(digests))
        return records(digests)

    monkeypatch.setattr(buffer.store, "records", counted)
    for k in range(3):
        buffer.add([string([50 + k] * 5, -1)])
    assert fetched == [20, 0, 0]


def test_a_full_cache_forgets_and_compares_all_the_same(
    make_buffer: MakeBuffer, string: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer.near_duplicates, "CACHED_STRINGS", 3)
    near = near_buffer(make_buffer)
    near.add([string([k, k, k], -1) for k in range(10)])
    assert near.add([string([k, k, k, k], -2) for k in range(10)]).refused == {"near_duplicate": 10}
    assert len(near._near_duplicates._cache) == 3


def test_a_kept_record_that_can_not_be_read_is_left_to_the_next_draw(
    make_buffer: MakeBuffer, string: Make, client: redis.Redis, name: str
) -> None:
    buffer = near_buffer(make_buffer)
    buffer.add([string([1, 2], -1)])
    (digest,) = client.hkeys(Keys(name).payload)
    client.hset(Keys(name).payload, digest, b"torn")
    assert near_buffer(make_buffer).add([string([1, 2, 3], -2)]).added == 1


def test_nothing_to_add_is_no_fault(make_buffer: MakeBuffer) -> None:
    assert near_buffer(make_buffer).add([]) == AddResult(0, 0, 0)
