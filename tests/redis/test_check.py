"""`check` reports every kind of damage, `repair` fixes it and keeps every readable item."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from buffer.errors import StoreError
from buffer.replay import ReplayBuffer
from buffer.store.binary_layout import ENTRY, ITEM
from buffer.store.check import findings, snapshot
from buffer.store.repair import repair
from buffer.types import Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


def field(client: redis.Redis, buffer: ReplayBuffer, name: str, value: bytes) -> None:
    """Overwrite one field of the item in slot 3."""
    offset = ITEM.fields[name][1]  # type: ignore[index]
    client.setrange(buffer.store.keys.items, 3 * ITEM.itemsize + offset, value)


def a_level(client: redis.Redis, buffer: ReplayBuffer) -> int:
    return next(iter(snapshot(client, buffer.store.keys).levels))


def an_entry(client: redis.Redis, buffer: ReplayBuffer) -> None:
    """The version that a level's last entry says."""
    key = buffer.store.keys.level(a_level(client, buffer))
    client.setrange(key, int(client.strlen(key)) - ENTRY.itemsize + 8, b"\7")


def a_group(client: redis.Redis, buffer: ReplayBuffer) -> bytes:
    return next(iter(snapshot(client, buffer.store.keys).groups))


def a_digest(client: redis.Redis, buffer: ReplayBuffer) -> bytes:
    return snapshot(client, buffer.store.keys).items["digest"][3].tobytes()


DAMAGES: dict[str, tuple[Callable[[redis.Redis, ReplayBuffer], object], str]] = {
    "digests": (lambda c, b: c.delete(b.store.keys.slots), "digests and slots do not match"),
    "levels": (lambda c, b: c.delete(b.store.keys.levels), "items are in no level"),
    "level": (lambda c, b: c.delete(b.store.keys.level(a_level(c, b))), "has 0 of"),
    "group": (lambda c, b: c.delete(b.store.keys.group(a_group(c, b))), "group .* has 0 of"),
    "entry": (lambda c, b: an_entry(c, b), "entries of level .* do not match"),
    "place": (lambda c, b: field(c, b, "level_at", b"\x99"), "level .* has 1 wrong places"),
    "size": (lambda c, b: c.hset(b.store.keys.counters, "size", 5), "size is 5, 20 slots hold an item"),
    "record": (lambda c, b: c.hdel(b.store.keys.payload, a_digest(c, b)), "1 items have no record"),
    "orphan": (lambda c, b: c.hset(b.store.keys.payload, b"o" * 16, b"junk"), "1 records have no item"),
    "histogram": (lambda c, b: c.hset(b.store.keys.rewards, "-999", 4), "histogram of rewards"),
    "chain": (lambda c, b: field(c, b, "older", b"\x11\0\0\0"), "slot 3 follows"),
    "newest": (lambda c, b: c.hset(b.store.keys.counters, "newest", 0), "chain by age"),
    "ages": (lambda c, b: c.hset(b.store.keys.counters, "arrived_sum", 1), "sum of arrival times"),
    "ranking": (lambda c, b: c.zrem(b.store.keys.rank, 3), "ranking"),
    "twins": (lambda c, b: field(c, b, "digest", b"\0" * 16), "1 items have no record"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_kind_of_damage_is_reported_and_repaired(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, damage: str
) -> None:
    buffer = make_buffer(sampler="highest_reward")
    items = [make_trajectory(k, prompt_id=f"p{k % 3}") for k in range(22)]
    buffer.add(items, priorities=[float(1 + k % 4) for k in range(22)])
    rows = {row.content_id: row for row in buffer.draw(22, 0, np.random.default_rng(0))}
    buffer.quarantine([rows[items[7].content_id], rows[items[8].content_id]], "leave holes")
    keys = buffer.store.keys
    assert findings(snapshot(client, keys)) == []

    break_it, message = DAMAGES[damage]
    break_it(client, buffer)
    stored = snapshot(client, keys)
    with pytest.raises(AssertionError, match=message):
        assert findings(stored) == []

    lost = {damage: 1} if damage in ("record", "twins") else {}
    orphans = repair(client, keys, stored, buffer.store.settings.ranked_by)
    assert findings(snapshot(client, keys)) == []
    assert len(orphans) == (damage in ("orphan", "twins"))
    kept = snapshot(client, keys)
    assert len(kept.live) == 20 - len(lost)
    alive = {kept.items["digest"][slot].tobytes().hex() for slot in kept.live.tolist()}
    handles = [rows[content].id for content in alive]
    assert buffer.reprioritize(handles, [2.0] * len(handles)) == len(handles), "handles are still good"
    assert buffer.add([make_trajectory(99)]).added == 1
    assert len(buffer.draw(0, 50, np.random.default_rng(1))) == len(alive) + 1
    assert findings(snapshot(client, keys)) == []


def test_a_repair_after_which_the_store_was_used_is_refused(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(1)])
    old = snapshot(client, buffer.store.keys)
    buffer.add([make_trajectory(2)])
    with pytest.raises(redis.WatchError, match="used since the snapshot"):
        repair(client, buffer.store.keys, old, "none")
    assert buffer.stats().size == 2


class BusyClient:
    """A client before each of whose transactions another process adds a trajectory."""

    def __init__(self, client: redis.Redis, add: Callable[[], object]) -> None:
        self._client, self._add = client, add

    def pipeline(self, **kwargs: bool) -> redis.client.Pipeline:
        self._add()
        return self._client.pipeline(**kwargs)

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


def test_a_store_is_read_consistently_while_trajectories_arrive(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer, numbers = make_buffer(), iter(range(100))
    buffer.add([make_trajectory(next(numbers), prompt_id="p")])
    busy: Any = BusyClient(client, lambda: buffer.add([make_trajectory(next(numbers), prompt_id="p")]))
    stored = snapshot(busy, buffer.store.keys)
    assert findings(stored) == [] and len(stored.live) == 2


def test_a_store_that_gets_new_prompts_at_every_attempt_ends_in_an_error_and_at_some_is_read(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer, numbers = make_buffer(), iter(range(1000))
    busy: Any = BusyClient(client, lambda: buffer.add([make_trajectory(next(numbers))]))
    with pytest.raises(StoreError, match="new weights during each of 10 attempts"):
        snapshot(busy, buffer.store.keys)
    three = iter(range(1000, 1003))
    busy = BusyClient(client, lambda: [buffer.add([make_trajectory(k)]) for k in [next(three, None)] if k])
    assert findings(snapshot(busy, buffer.store.keys)) == []


def test_a_run_that_goes_on_under_other_rules_has_the_order_they_need(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    before = make_buffer(capacity=50)
    before.add([make_trajectory(k) for k in range(30)])
    after = make_buffer(capacity=20, sampler="highest_reward")
    after.adopt()
    rows = after.draw(0, 3, np.random.default_rng(0))
    rewards = sorted((float(make_trajectory(k).log_reward[:, -1].sum()) for k in range(30)), reverse=True)
    assert [float(row.trajectory.log_reward[:, -1].sum()) for row in rows] == pytest.approx(rewards[:3])
    assert after.stats().fresh_waiting == 0
    after.add([make_trajectory(40)])
    assert after.stats().size == 20, "down to the new capacity"
    assert findings(snapshot(client, after.store.keys)) == []
