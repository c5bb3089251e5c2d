"""The guarantees of the replay buffer, on a real server. The distribution of draws: test_sampling.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis

from buffer.codec import encode
from buffer.config import BufferConfig
from buffer.errors import ConfigError, RecordError, StoreError, WaitTimeout
from buffer.heartbeat import LIFETIME_S, Heartbeats
from buffer.replay import AddResult, ReplayBuffer
from buffer.store.check import findings, snapshot
from buffer.store.item_store import ADD_CHUNK, Handle
from buffer.store.keys import Keys
from buffer.store.priority_levels import LEVEL_COUNT, MIDDLE, WEIGHTS, effective_size, level_of
from buffer.types import NOT_SCORED, Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


@pytest.fixture
def keys(name: str) -> Keys:
    return Keys(name)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def kept(client: redis.Redis, buffer: ReplayBuffer) -> dict[str, Handle]:
    """Content id -> handle of everything in the buffer, oldest first; the store must be consistent."""
    stored = snapshot(client, buffer.store.keys)
    assert findings(stored) == []
    by_age = stored.live[np.argsort(stored.items["arrival"][stored.live])]
    return {
        stored.items["digest"][slot].tobytes().hex(): Handle(slot, int(stored.items["generation"][slot]))
        for slot in by_age.tolist()
    }


def ids(*trajectories: Trajectory) -> list[str]:
    return [trajectory.content_id for trajectory in trajectories]


@pytest.mark.parametrize("priority", [-0.1, float("nan"), float("inf")])
def test_a_priority_that_is_no_weight_is_refused_by_name(make_buffer: MakeBuffer, priority: float) -> None:
    with pytest.raises(ValueError, match=f"priority = {priority} must be finite and >= 0"):
        make_buffer().reprioritize([Handle(0, 1)], [priority])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 300.0])
def test_no_priority_starves_and_rounding_stays_within_its_bound(exponent: float) -> None:
    assert level_of(0.0, exponent) == level_of(1e-300, exponent) == 1
    assert level_of(1e300, exponent) == LEVEL_COUNT - 1
    for priority in np.exp(np.linspace(-20 / exponent, 20 / exponent, 97)):
        assert 0.955 < WEIGHTS[level_of(float(priority), exponent)] / priority**exponent < 1.045
    assert level_of(7.0, 0.0) == level_of(0.0, 0.0) == MIDDLE


def test_the_effective_size_is_that_of_the_weights() -> None:
    weights = np.array([1.0] * 5 + [4.0] * 2)
    counts = np.zeros(LEVEL_COUNT, np.int64)
    counts[MIDDLE], counts[MIDDLE + 16] = 5, 2
    assert effective_size(counts) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert effective_size(np.zeros(LEVEL_COUNT, np.int64)) == 0.0


def test_a_late_priority_never_hits_the_trajectory_that_has_the_slot_now(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(capacity=1)
    buffer.add([make_trajectory(1)])
    (old,) = buffer.draw(0, 1, rng())
    buffer.add([make_trajectory(2)])
    (new,) = buffer.draw(0, 1, rng())
    assert new.id.slot == old.id.slot and new.id.generation == old.id.generation + 1
    assert buffer.reprioritize([old.id, new.id, Handle(77, 1)], [9.0, 2.0, 9.0]) == 1
    stats = buffer.stats()
    assert (stats.updated, stats.update_misses) == (1, 2)
    assert list(stats.priority_histogram) == [2.0]
    assert buffer.reprioritize([], []) == 0


def test_the_buffer_never_exceeds_its_capacity_and_evicts_what_arrived_longest_ago(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(capacity=3)
    a, b, c, d, e = (make_trajectory(k) for k in range(5))
    assert buffer.add([a, b, c]) == AddResult(added=3, duplicates=0, evicted=0)
    assert buffer.add([a]) == AddResult(added=0, duplicates=1, evicted=0)  # a is young again
    assert buffer.add([d, e]) == AddResult(added=2, duplicates=0, evicted=2)
    assert list(kept(client, buffer)) == ids(a, d, e)
    assert buffer.stats().fresh_waiting == 3


def test_the_lowest_priority_makes_room_where_the_recipe_says_so(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(capacity=3, evict="lowest_priority")
    a, b, c, d = (make_trajectory(k) for k in range(4))
    buffer.add([a, b, c], priorities=[2.0, 0.5, 4.0])
    buffer.add([d])
    assert list(kept(client, buffer)) == ids(a, c, d)


def test_the_most_sampled_makes_room_where_the_recipe_says_so(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(capacity=2, evict="most_sampled")
    a, b, c = (make_trajectory(k) for k in range(3))
    buffer.add([a, b], priorities=[1.0, 1e6])
    assert {row.content_id for row in buffer.draw(0, 50, rng())} == set(ids(b))
    buffer.add([c])
    assert list(kept(client, buffer)) == ids(a, c)


def test_a_prompt_keeps_no_more_than_its_quota(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(per_prompt_quota=2)
    one = [make_trajectory(k, prompt_id="one") for k in range(4)]
    other = [make_trajectory(k, prompt_id="other") for k in range(10, 12)]
    buffer.add([*one[:2], *other])
    assert buffer.add([one[2]]) == AddResult(added=1, duplicates=0, evicted=1)
    assert list(kept(client, buffer)) == ids(one[1], *other, one[2])
    many = [make_trajectory(k, prompt_id="many") for k in range(20, 25)]
    assert buffer.add(many) == AddResult(added=2, duplicates=0, evicted=0, refused={"quota": 3})
    assert list(kept(client, buffer))[-2:] == ids(*many[-2:])
    assert buffer.stats().refused == {"quota": 3} and buffer.stats().prompts == 3


def test_what_is_too_many_versions_old_neither_enters_nor_is_drawn(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(max_staleness=2)
    given = make_trajectory(9, adapter_digest="", policy_version=0, behaviour="demonstration")
    buffer.add([given, *(make_trajectory(k, policy_version=k) for k in range(4))])
    buffer.note_version(5)
    rows = buffer.draw(0, 100, rng())
    assert {row.content_id for row in rows} == set(ids(given, make_trajectory(3)))
    assert {row.policy_version for row in rows if row.content_id == given.content_id} == {0}
    result = buffer.add([make_trajectory(11, policy_version=2), make_trajectory(12, policy_version=3)])
    assert result == AddResult(added=1, duplicates=0, evicted=0, refused={"stale": 1})
    stats = buffer.stats()
    # Version 0 was too old on arrival; 1 and 2 were removed when they were drawn.
    assert (stats.expired, stats.refused, stats.size, stats.newest_version) == (2, {"stale": 2}, 3, 5)


def test_a_trajectory_leaves_with_its_last_allowed_draw_and_is_still_handed_over(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer(max_times_sampled=2)
    items = [make_trajectory(k) for k in range(10)]
    buffer.add(items)
    drawn = [row.content_id for seed in range(9) for row in buffer.draw(1, 2, rng(seed))]
    assert sorted(drawn) == sorted(2 * ids(*items)), "each one twice, none a third time"
    assert buffer.stats().size == 0 and buffer.stats().max_draws_reached == 10
    assert buffer.draw(0, 3, rng()) == []
    assert kept(client, buffer) == {}


def test_a_record_that_is_too_large_stays_out_and_is_counted(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(max_record_bytes=2048)
    result = buffer.add([make_trajectory(1), make_trajectory(2, length=500)])
    assert result == AddResult(added=1, duplicates=0, evicted=0, refused={"too_large": 1})
    assert buffer.stats().refused == {"too_large": 1}


def test_a_batch_larger_than_a_chunk_and_than_the_capacity_leaves_the_newest(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer, count = make_buffer(capacity=10), ADD_CHUNK + 5
    items = [make_trajectory(k) for k in range(count)]
    assert buffer.add(items) == AddResult(added=count, duplicates=0, evicted=count - 10)
    rows = buffer.draw(50, 0, rng())
    assert [row.content_id for row in rows if row.fresh] == ids(*items[-10:])
    assert len(rows) == 50


def test_a_repeat_within_or_across_batches_keeps_one_record_the_newest_and_its_weight(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    old, new = make_trajectory(1, policy_version=1), make_trajectory(1, policy_version=2)
    assert buffer.add([old, old, make_trajectory(2)]) == AddResult(added=2, duplicates=1, evicted=0)
    buffer.reprioritize([kept(client, buffer)[old.content_id]], [0.5])
    assert buffer.add([new]) == AddResult(added=0, duplicates=1, evicted=0)
    stats = buffer.stats()
    assert stats.size == 2 and stats.priority_histogram == {0.5: 1, 1.0: 1}
    assert stats.unique_ratio == 0.5
    rows = buffer.draw(0, 200, rng())
    assert {row.trajectory.policy_version for row in rows if row.content_id == old.content_id} == {2}


def test_new_ones_enter_at_the_highest_weight_in_the_buffer_unless_told_otherwise(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(1), make_trajectory(2)], priorities=[0.25, 8.0])
    buffer.add([make_trajectory(3)])
    assert buffer.stats().priority_histogram == {0.25: 1, 8.0: 2}
    assert buffer.stats().priority_ess == pytest.approx(16.25**2 / (128 + 0.0625))


def test_fresh_rows_come_in_order_of_arrival_with_their_multiplicity_and_once(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    a, b = make_trajectory(1), make_trajectory(2)
    buffer.add([a, b, a])
    buffer.add([a])
    first, second = buffer.draw(3, 0, rng()), buffer.draw(3, 1, rng())
    assert [row.content_id for row in first] == ids(a, b, a)
    assert all(row.fresh for row in first)
    assert [row.fresh for row in second] == [True, False, False, False]
    assert second[0].content_id == a.content_id


def test_a_batch_of_fresh_rows_alone_waits_for_them_and_takes_no_other(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(k) for k in range(3)])
    assert buffer.draw(4, 0, rng(), fresh_window=4, fresh_needed=4) == []
    buffer.add([make_trajectory(k) for k in range(3, 9)])
    rows = buffer.draw(4, 0, rng(), fresh_window=4, fresh_needed=4)
    assert len(rows) == 4 and all(row.fresh for row in rows)
    assert buffer.draw(4, 0, rng(), fresh_window=4, fresh_needed=4) == [], "what was passed over is not fresh again"


def test_fresh_ones_that_were_evicted_are_skipped(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(capacity=2, evict="lowest_priority")
    a, b, c = (make_trajectory(k, policy_version=k) for k in range(3))
    buffer.add([a, b], priorities=[4.0, 0.5])
    buffer.add([c])
    assert [row.policy_version for row in buffer.draw(2, 0, rng()) if row.fresh] == [2]


def test_only_the_newest_arrivals_within_the_window_are_fresh(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(k, policy_version=k) for k in range(10)])
    first = buffer.draw(2, 0, rng(), fresh_window=3)
    assert [row.policy_version for row in first if row.fresh] == [7, 8], "the first of the newest three"
    buffer.add([make_trajectory(k, policy_version=k) for k in (10, 11)])
    second = buffer.draw(10, 0, rng(), fresh_window=3)
    assert [row.policy_version for row in second if row.fresh] == [9, 10, 11], "each once"
    assert len(second) == 10 and buffer.stats().fresh_waiting == 0


def test_a_draw_of_no_fresh_rows_passes_over_no_arrival(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(k) for k in range(10)])
    buffer.draw(0, 4, rng(), fresh_window=3)
    assert buffer.stats().fresh_waiting == 10


def test_a_fresh_row_keeps_the_behaviour_and_version_of_its_own_arrival(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    """A string drawn twice: the record is the newer one's, but figures on on-policy rows must not lose the first."""
    buffer = make_buffer()
    buffer.add([make_trajectory(1, behaviour="on_policy", policy_version=4)])
    buffer.add([make_trajectory(1, behaviour="tempered", policy_version=6)])
    rows = buffer.draw(2, 0, rng())
    assert [(row.behaviour, row.policy_version) for row in rows] == [("on_policy", 4), ("tempered", 6)]
    assert {row.trajectory.policy_version for row in rows} == {6}


def test_nothing_is_drawn_before_enough_has_arrived_and_then_all_rows_come(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(min_size_to_sample=3)
    assert buffer.draw(3, 4, rng()) == []
    buffer.add([make_trajectory(1), make_trajectory(1)])
    assert buffer.draw(3, 4, rng()) == []
    buffer.add([make_trajectory(2)])
    assert len(buffer.draw(3, 4, rng())) == 7
    assert buffer.draw(0, 0, rng()) == []


def test_whoever_is_ahead_of_the_samples_per_insert_waits_and_says_so(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(
        samples_per_insert=2.0, samples_per_insert_band=10.0, min_size_to_sample=4, insert_wait_limit_s=1e-9
    )
    ahead = buffer.rate_limiter.inserts_ahead
    added = 0
    while 2 * added <= ahead:
        buffer.add([make_trajectory(added)])
        added += 1
    with pytest.raises(
        WaitTimeout,
        match=rf"reward worker waits for the learner to draw: 0 rows drawn after {added} arrivals, .* 2 per ",
    ):
        buffer.add([make_trajectory(99)])
    assert buffer.stats().size == added, "what had to wait is not in"
    drawn = 0
    while rows := buffer.draw(0, 1, rng()):
        drawn += len(rows)
    assert drawn == 2 * added + buffer.rate_limiter.draws_ahead + 1, "the first draw beyond the band is the last"
    assert buffer.add([make_trajectory(99)]).added == 1
    assert len(buffer.draw(0, 1, rng())) == 1


def test_an_unscored_trajectory_keeps_its_whole_batch_out(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer()
    with pytest.raises(RecordError, match="unscored"):
        buffer.add([make_trajectory(1), make_trajectory(2, reward_terms=(), log_reward=NOT_SCORED)])
    assert buffer.stats().size == 0


@pytest.mark.parametrize(
    "broken", [{"log_pf": np.zeros(1, np.float32)}, {"log_pf": np.full(5, np.inf, np.float32)}, {"policy_version": -1}]
)
def test_a_malformed_trajectory_goes_to_quarantine_alone(
    make_buffer: MakeBuffer, make_trajectory: Make, broken: dict[str, object]
) -> None:
    buffer = make_buffer()
    result = buffer.add([make_trajectory(1), make_trajectory(2, **broken), make_trajectory(3)])
    assert (result.added, result.refused) == (2, {"malformed": 1})
    (entry,) = buffer.quarantined()
    assert next(iter(broken)) in entry.reason
    assert buffer.stats().refused == {"malformed": 1} and buffer.stats().size == 2
    buffer.reject([make_trajectory(4, **broken)], ["log_reward failed"])
    assert buffer.quarantined()[0].reason == "log_reward failed"


def test_a_corrupted_record_goes_to_quarantine_with_its_reason_and_is_replaced(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    good, bad = make_trajectory(1), make_trajectory(2)
    buffer.add([good, bad])
    damaged = bytearray(encode(bad))
    damaged[-1] ^= 1
    client.hset(buffer.store.keys.payload, bytes.fromhex(bad.content_id), bytes(damaged))

    rows = buffer.draw(2, 6, rng())

    assert [row.content_id for row in rows] == ids(good) * 8
    (note,) = buffer.quarantined()
    assert note.id == bad.content_id and "crc32" in note.reason and note.head.startswith(b"TRIB")
    assert (buffer.stats().quarantined, buffer.stats().size) == (1, 1)
    assert list(kept(client, buffer)) == ids(good)
    assert buffer.add([bad]).added == 1  # the way back in is open


def test_five_hundred_mutated_records_neither_execute_nor_crash_a_draw(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer, mutate, good = make_buffer(), rng(3), make_trajectory(999)
    items = [make_trajectory(k) for k in range(500)]
    buffer.add([*items, good])
    for k, item in enumerate(items):
        record = bytearray(encode(item))
        match k % 5:
            case 0:
                record[int(mutate.integers(len(record)))] ^= int(mutate.integers(1, 256))
            case 1:
                del record[int(mutate.integers(len(record))) :]
            case 2:
                record += mutate.bytes(9)
            case 3:
                start = int(mutate.integers(len(record)))
                record[start : start + 8] = mutate.bytes(8)
            case _:
                record = bytearray(b"cos\nsystem\n(S'exit 1'\ntR.") + record  # what pickle would run
        client.hset(buffer.store.keys.payload, bytes.fromhex(item.content_id), bytes(record))
    readable = {good.content_id}
    for seed in range(40):
        rows = buffer.draw(64, 64, rng(seed))
        readable |= {row.content_id for row in rows}
        assert all(row.trajectory.content_id == row.content_id for row in rows)
    stats = buffer.stats()
    assert stats.size == len(readable) and stats.quarantined == 501 - len(readable)
    assert len(readable) < 5, "a crc32 catches what a header does not"


def test_a_buffer_full_of_unreadable_records_ends_in_an_error_not_in_a_loop(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(k) for k in range(100)])
    payload = buffer.store.keys.payload
    for digest in client.hkeys(payload):
        client.hset(payload, digest, b"junk")
    with pytest.raises(StoreError, match=r"only 0 of 2 rows were readable after 8 rounds.*Clear"):
        buffer.draw(2, 0, rng())


def test_what_is_set_aside_is_drawn_no_more_and_keeps_its_reason(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    items = [make_trajectory(k) for k in range(4)]
    buffer.add(items)
    rows = buffer.draw(4, 0, rng())
    assert buffer.quarantine([rows[0], rows[2], rows[0]], "step 7: loss nan") == 2
    assert buffer.quarantine([rows[0]], "again") == 0
    stats = buffer.stats()
    assert (stats.size, stats.quarantined) == (2, 2)
    assert {note.id: note.reason for note in buffer.quarantined()} == dict.fromkeys(
        ids(items[0], items[2]), "step 7: loss nan"
    )
    assert {row.content_id for row in buffer.draw(0, 50, rng())} == set(ids(items[1], items[3]))
    assert buffer.quarantine([], "nothing") == 0


def test_counters_add_up_and_clear_forgets(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(capacity=2)
    assert buffer.stats().last_insert_age_s is None and buffer.stats().mean_age_s is None
    buffer.add([make_trajectory(k) for k in (0, 1)])
    buffer.add([make_trajectory(k) for k in (1, 2)])
    rows = buffer.draw(1, 3, rng())
    buffer.reprioritize([rows[0].id], [3.0])
    stats = buffer.stats()
    assert (stats.size, stats.capacity, stats.arrivals, stats.inserted, stats.duplicates) == (2, 2, 4, 3, 1)
    assert (stats.evicted, stats.drawn, stats.updated, stats.quarantined, stats.draws_per_insert) == (1, 4, 1, 0, 1.0)
    for age in (stats.last_insert_age_s, stats.oldest_age_s, stats.mean_age_s):
        assert age is not None and 0 <= age < 60
    assert stats.staleness_histogram == {0: 4}
    assert sum(stats.reward_histogram.values()) == 2
    buffer.clear()
    empty = buffer.stats()
    assert (empty.size, empty.inserted, empty.fresh_waiting, empty.last_insert_age_s) == (0, 0, 0, None)


def test_histograms_say_what_is_in_it_and_what_was_drawn(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(capacity=3)

    def worth(number: int, log_reward: float, version: int) -> Trajectory:
        rewards = np.full((1, 6), log_reward, np.float32)
        return make_trajectory(number, log_reward=rewards, reward_terms=("r",), policy_version=version)

    buffer.add([worth(1, -7.3, 0), worth(2, -0.2, 4), worth(3, 0.2, 7), worth(4, 0.3, 8)])
    assert buffer.stats().reward_histogram == {-0.5: 1, 0.0: 2}, "bins are half a nat wide; the first one has left"
    buffer.draw(3, 0, rng())
    assert buffer.stats().staleness_histogram == {0: 1, 1: 1, 4: 1}


def test_two_buffers_on_one_server_do_not_meet(client: redis.Redis, name: str, make_trajectory: Make) -> None:
    left, right = (ReplayBuffer(client, BufferConfig(), f"{name}-{side}") for side in ("left", "right"))
    left.add([make_trajectory(1)])
    assert (left.stats().size, right.stats().size) == (1, 0)


def test_whoever_brings_other_rules_is_refused_until_they_are_adopted(
    client: redis.Redis, name: str, make_trajectory: Make
) -> None:
    small, large = (ReplayBuffer(client, BufferConfig(capacity=n), name) for n in (100, 200))
    small.add([make_trajectory(1)])
    with pytest.raises(StoreError, match=r'kept under .*"capacity":100.*this process has .*"capacity":200'):
        large.add([make_trajectory(2)])
    large.adopt()
    assert large.add([make_trajectory(2)]).added == 1
    with pytest.raises(StoreError, match="all processes"):
        small.draw(0, 1, rng())


def test_every_call_adds_to_the_event_stream(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(1), make_trajectory(1)])
    rows = buffer.draw(1, 2, rng())
    buffer.reprioritize([rows[0].id], [3.0])
    buffer.quarantine(rows[:1], "why not")
    stream: Any = client.xrange(buffer.store.keys.events)
    events = [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in stream]
    assert [event.pop("kind") for event in events] == ["add", "draw", "reprioritize", "remove"]
    assert events[0] == {"added": "1", "duplicates": "1", "evicted": "0", "refused": "0"}
    assert events[1]["rows"] == "3" and events[1]["fresh"] == "1"
    assert events[3] == {"reason": "quarantined", "items": "1"}


def test_a_name_that_breaks_the_braces_is_refused() -> None:
    with pytest.raises(ConfigError, match="buffer name 'a}b'"):
        Keys("a}b")


def test_all_keys_of_a_buffer_are_in_one_slot_of_a_cluster(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, name: str
) -> None:
    buffer = make_buffer(per_prompt_quota=2, sampler="highest_reward")
    buffer.add([make_trajectory(k) for k in range(3)])
    buffer.draw(1, 1, rng())
    tag = f"{{tributary:{name}}}:".encode()
    stored = [key for key in client.scan_iter(match=f"*{name}*")]
    assert len(stored) > 10 and all(key.startswith(tag) for key in stored)
    buffer.clear()
    assert set(client.scan_iter(match=f"*{name}*")) - {key for key in stored if b":reply:" in key} == {
        tag + b"counters",
        tag + b"events",
    }


def test_who_beats_is_alive_and_who_is_silent_too_long_is_not(client: redis.Redis, name: str, keys: Keys) -> None:
    heartbeats = Heartbeats(client, name)
    heartbeats.beat("actor", "1")
    heartbeats.beat("actor", "0")
    heartbeats.beat("learner", "0")
    assert heartbeats.alive("actor") == ["0", "1"]
    client.zincrby(keys.alive("actor"), -LIFETIME_S - 1, "1")  # its last beat was this much earlier
    assert heartbeats.alive("actor") == ["0"]
    assert 0 < client.ttl(keys.alive("actor")) <= LIFETIME_S


def test_the_newest_version_is_remembered_until_the_buffer_is_cleared(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(1, policy_version=40)])
    assert buffer.newest_version() == -1, "a version seen is not one published"
    buffer.note_version(12)
    assert buffer.newest_version() == 12
    buffer.clear()
    assert buffer.newest_version() == -1


def test_who_waits_for_the_learner_goes_on_when_draws_have_ended(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    fields = {"samples_per_insert": 1.0, "samples_per_insert_band": 4.0, "insert_wait_limit_s": 0.2}
    buffer = make_buffer(**fields)
    buffer.add([make_trajectory(k) for k in range(8)])
    with pytest.raises(WaitTimeout, match="reward worker waits for the learner to draw"):
        buffer.add([make_trajectory(8)])
    buffer.end_draws()
    assert buffer.add([make_trajectory(8)]).added == 1
    buffer.begin_draws()
    with pytest.raises(WaitTimeout):
        buffer.add([make_trajectory(9)])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"capacity": 200}, {"capacity": 250}),
        ({"capacity": 30}, {"capacity": 40}),
        ({"capacity": 200}, {"capacity": 200, "max_staleness": 50}),
        ({"capacity": 200}, {"capacity": 40}),
    ],
)
def test_a_resume_under_other_settings_draws_every_later_arrival_as_fresh(
    make_buffer: MakeBuffer, make_trajectory: Make, before: dict[str, int], after: dict[str, int]
) -> None:
    make_buffer(**before).add([make_trajectory(k) for k in range(330)])
    resumed = make_buffer(newest_fraction=1.0, **after)
    resumed.adopt()
    for start in range(1000, 1640, 32):
        arrivals = [make_trajectory(k, policy_version=4) for k in range(start, start + 32)]
        resumed.add(arrivals)
        rows = resumed.draw(32, 4, rng())
        assert [row.content_id for row in rows if row.fresh] == ids(*arrivals)
        assert all(row.policy_version == 4 for row in rows), "rows of the newest version"


@pytest.mark.parametrize(
    "old", [{"settings": '{"layout": 2, "capacity": 1000}'}, {"size": "3"}], ids=["newer", "older"]
)
def test_a_buffer_of_another_layout_is_neither_adopted_nor_used(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, old: dict[str, str]
) -> None:
    """Of a newer release, and of one that did not number its layouts yet."""
    buffer = make_buffer()
    client.hset(buffer.store.keys.payload, "0" * 32, "record")
    client.hset(buffer.store.keys.counters, mapping={"epoch": "1", **old})
    before = client.hgetall(buffer.store.keys.counters)
    with pytest.raises(StoreError, match=r"layout in Redis is (2|unknown), and this release reads 1.*--replace"):
        buffer.adopt()
    if "settings" in old:
        with pytest.raises(StoreError, match="another release of Tributary wrote the buffer, in another layout"):
            buffer.add([make_trajectory(0)])
    assert client.hgetall(buffer.store.keys.counters) == before
    buffer.clear()
    assert buffer.add([make_trajectory(0)]).added == 1


def test_a_buffer_that_does_not_number_its_layout_is_of_the_first_one(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(0)])
    stored: Any = client.hget(buffer.store.keys.counters, "settings")
    client.hset(buffer.store.keys.counters, "settings", stored.replace(b'"layout":1,', b""))
    resumed = make_buffer()
    resumed.adopt()
    assert resumed.stats().size == 1 and resumed.add([make_trajectory(1)]).added == 1
