"""What the replay buffer promises, on a real server."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import redis

from buffer.codec import content_id, encode
from buffer.config import BufferConfig
from buffer.errors import ConfigError, RecordError, StoreError
from buffer.heartbeat import LIFETIME_S, Heartbeats
from buffer.keys import Keys
from buffer.replay import ADD_CHUNK, WEIGHT_RANGE, AddResult, ReplayBuffer
from buffer.types import NOT_SCORED, Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


@pytest.fixture
def keys(name: str) -> Keys:
    return Keys(name)


def versions(buffer: ReplayBuffer, fresh: int) -> list[int]:
    return [row.trajectory.policy_version for row in buffer.draw(fresh, 0, np.random.default_rng(0))]


def assert_draws_follow(buffer: ReplayBuffer, weights: dict[str, float], seed: int, draws: int = 20_000) -> None:
    """Chi-square of the counts against the weights, below its 99.9 % point (Wilson-Hilferty)."""
    rng = np.random.default_rng(seed)
    counts = Counter(row.id for _ in range(draws // 500) for row in buffer.draw(0, 500, rng))
    assert counts.keys() <= weights.keys()
    expected = {id_: draws * weight / sum(weights.values()) for id_, weight in weights.items()}
    statistic = sum((counts[id_] - mean) ** 2 / mean for id_, mean in expected.items())
    freedom = len(weights) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_draws_follow_the_weights_also_after_updates_and_evictions(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(capacity=20)
    items = [make_trajectory(k) for k in range(30)]
    ids = [content_id(item) for item in items]
    buffer.add(items[:20])
    assert_draws_follow(buffer, dict.fromkeys(ids[:20], 1.0), seed=1)

    first = {id_: 0.1 * (k + 1) for k, id_ in enumerate(ids[:20])}
    assert buffer.reprioritize(list(first), list(first.values())) == 20
    assert_draws_follow(buffer, first, seed=2)

    buffer.add(items[20:])  # evicts the first ten; the new ones enter at the largest weight so far, 2.0
    after = {id_: first.get(id_, 2.0) for id_ in ids[10:]}
    assert_draws_follow(buffer, after, seed=3)

    changed = {id_: 0.05 * (k + 1) ** 2 for k, id_ in enumerate(ids[15:25])}
    buffer.reprioritize(list(changed), list(changed.values()))
    assert_draws_follow(buffer, after | changed, seed=4)


def test_updates_between_draws_do_not_bend_the_shares(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    """The learner updates after every batch; setting the same priorities again and again must change nothing."""
    buffer = make_buffer()
    items = [make_trajectory(k) for k in range(5)]
    buffer.add(items)
    weights = {content_id(item): float(k + 1) for k, item in enumerate(items)}
    rng, counts = np.random.default_rng(5), Counter[str]()
    for _ in range(1500):
        rows = buffer.draw(0, 4, rng)
        counts.update(row.id for row in rows)
        for scale in (3.0, 1.0):
            buffer.reprioritize([row.id for row in rows], [scale * weights[row.id] for row in rows])
    statistic = sum((counts[id_] - 6000 * w / 15) ** 2 / (6000 * w / 15) for id_, w in weights.items())
    assert statistic < 18.5  # 99.9 % point of chi-square with 4 degrees of freedom


def test_the_first_draw_after_an_update_already_follows_the_new_weights(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer, rng, turns = make_buffer(), np.random.default_rng(9), 1500
    items = [make_trajectory(k) for k in range(2)]
    buffer.add(items)
    ids, heavy = [content_id(item) for item in items], 0
    for turn in range(turns):
        buffer.reprioritize(ids, [9.0, 1.0] if turn % 2 else [1.0, 9.0])
        (row,) = buffer.draw(0, 1, rng)
        heavy += row.id == ids[1 - turn % 2]
    assert abs(heavy / turns - 0.9) < 4 * (0.9 * 0.1 / turns) ** 0.5


def test_a_new_item_is_as_likely_as_the_heaviest_from_the_first_draw_on(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer, rng, turns = make_buffer(), np.random.default_rng(10), 800
    old, new = make_trajectory(1), make_trajectory(2)
    drawn_new = 0
    for _ in range(turns):
        buffer.clear()
        buffer.add([old])
        buffer.reprioritize([content_id(old)], [9.0])
        buffer.add([new])
        (row,) = buffer.draw(0, 1, rng)
        drawn_new += row.id == content_id(new)
    assert abs(drawn_new / turns - 0.5) < 4 * (0.25 / turns) ** 0.5


def test_draws_stay_exact_when_virtual_time_starts_anew(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, keys: Keys
) -> None:
    buffer = make_buffer()
    items = [make_trajectory(k) for k in range(4)]
    buffer.add(items)
    tiny = {content_id(item): WEIGHT_RANGE[0] * (k + 1) for k, item in enumerate(items)}
    buffer.reprioritize(list(tiny), list(tiny.values()))
    assert_draws_follow(buffer, tiny, seed=6)  # at these weights 20,000 draws take 2e9 units of time
    assert float(client.hget(keys.counters, "now") or 0) < 2**20


def test_the_exponent_turns_priorities_into_weights(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    items = [make_trajectory(k) for k in range(3)]
    ids = [content_id(item) for item in items]
    buffer = make_buffer(priority_exponent=0.5)
    buffer.add(items)
    buffer.reprioritize(ids, [1.0, 4.0, 9.0])
    assert_draws_follow(buffer, dict(zip(ids, [1.0, 2.0, 3.0], strict=True)), seed=7)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 300.0])
def test_no_priority_starves_or_breaks_the_clock(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, keys: Keys, exponent: float
) -> None:
    buffer = make_buffer(priority_exponent=exponent)
    items = [make_trajectory(k) for k in range(2)]
    buffer.add(items)
    ids = [content_id(item) for item in items]
    buffer.reprioritize(ids, [0.0, 1e300])
    assert [float(w) for w in client.hmget(keys.weight, ids) if w] == pytest.approx(WEIGHT_RANGE)


@pytest.mark.parametrize("priority", [-0.1, float("nan"), float("inf")])
def test_a_priority_that_is_no_weight_is_refused_by_name(
    make_buffer: MakeBuffer, make_trajectory: Make, priority: float
) -> None:
    with pytest.raises(ValueError, match=f"priority of some-id = {priority} must be finite"):
        make_buffer().reprioritize(["some-id"], [priority])


def test_priorities_of_unknown_ids_are_ignored(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(1)])
    assert buffer.reprioritize(["gone", content_id(make_trajectory(1))], [1.0, 2.0]) == 1
    assert buffer.reprioritize([], []) == 0
    assert buffer.stats().size == 1


def test_the_buffer_never_exceeds_its_capacity_and_evicts_what_was_added_longest_ago(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, keys: Keys
) -> None:
    buffer = make_buffer(capacity=3, fresh_capacity=3)
    a, b, c, d, e = (make_trajectory(k) for k in range(5))
    assert buffer.add([a, b, c]) == AddResult(added=3, duplicates=0, evicted=0)
    assert buffer.add([a]) == AddResult(added=0, duplicates=1, evicted=0)  # a is young again
    assert buffer.add([d, e]) == AddResult(added=2, duplicates=0, evicted=2)
    left = {content_id(t).encode() for t in (a, d, e)}
    assert set(client.hkeys(keys.payload)) == set(client.hkeys(keys.weight)) == left
    assert set(client.zrange(keys.clock, 0, -1)) == set(client.zrange(keys.order, 0, -1)) == left
    assert buffer.stats().fresh_waiting == 3


def test_a_batch_larger_than_a_chunk_and_than_the_capacity_leaves_the_newest(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer, count = make_buffer(capacity=10), ADD_CHUNK + 5
    items = [make_trajectory(k) for k in range(count)]
    assert buffer.add(items) == AddResult(added=count, duplicates=0, evicted=count - 10)
    rows = buffer.draw(50, 0, np.random.default_rng(0))
    assert [row.id for row in rows if row.fresh] == [content_id(item) for item in items[-10:]]
    assert len(rows) == 50


def test_a_repeat_within_or_across_batches_keeps_one_record_the_newest_and_its_weight(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    old, new = make_trajectory(1, policy_version=1), make_trajectory(1, policy_version=2)
    assert buffer.add([old, old, make_trajectory(2)]) == AddResult(added=2, duplicates=1, evicted=0)
    id_ = content_id(old)
    buffer.reprioritize([id_], [0.5])
    assert buffer.add([new]) == AddResult(added=0, duplicates=1, evicted=0)
    assert buffer.stats().size == 2
    rows = buffer.draw(0, 200, np.random.default_rng(0))
    assert {row.trajectory.policy_version for row in rows if row.id == id_} == {2}
    assert_draws_follow(buffer, {id_: 0.5, content_id(make_trajectory(2)): 1.0}, seed=8)


def test_fresh_rows_come_in_order_of_arrival_with_their_multiplicity_and_once(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    a, b = make_trajectory(1), make_trajectory(2)
    buffer.add([a, b, a])
    buffer.add([a])
    rng = np.random.default_rng(0)
    first, second = buffer.draw(3, 0, rng), buffer.draw(3, 1, rng)
    assert [row.id for row in first] == [content_id(t) for t in (a, b, a)]
    assert all(row.fresh for row in first)
    assert [row.fresh for row in second] == [True, False, False, False]
    assert second[0].id == content_id(a)


def test_fresh_ids_that_were_evicted_are_skipped(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(capacity=2, fresh_capacity=2)
    a, b, c = (make_trajectory(k, policy_version=k) for k in range(3))
    buffer.add([a, b])
    buffer.add([b, c])
    assert versions(buffer, 2) == [1, 2]


def test_a_resent_add_changes_nothing(
    client: redis.Redis, name: str, make_trajectory: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py sends a script again when the reply was lost; the server has done the work then."""
    buffer = ReplayBuffer(client, BufferConfig(), name)
    script = buffer._scripts.add
    monkeypatch.setattr(buffer._scripts, "add", lambda *args: (script(*args), script(*args))[1])
    assert buffer.add([make_trajectory(1)]) == AddResult(added=1, duplicates=0, evicted=0)
    stats = buffer.stats()
    assert (stats.inserted, stats.duplicates, stats.fresh_waiting) == (1, 0, 1)


def test_a_draw_has_fewer_rows_than_asked_only_from_an_empty_buffer(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer, rng = make_buffer(), np.random.default_rng(0)
    assert buffer.draw(3, 4, rng) == []
    buffer.add([make_trajectory(1)])
    assert len(buffer.draw(3, 4, rng)) == 7
    assert buffer.draw(0, 0, rng) == []


@pytest.mark.parametrize(
    ("broken", "reason"), [({"reward_terms": (), "log_reward": NOT_SCORED}, "unscored"), ({"log_pf": None}, "log_pf")]
)
def test_an_unscored_or_malformed_trajectory_keeps_its_whole_batch_out(
    make_buffer: MakeBuffer, make_trajectory: Make, broken: dict[str, object], reason: str
) -> None:
    broken = {name: np.zeros(1, np.float32) if value is None else value for name, value in broken.items()}
    buffer = make_buffer()
    with pytest.raises(RecordError, match=reason):
        buffer.add([make_trajectory(1), make_trajectory(2, **broken)])
    assert buffer.stats().size == 0


def test_a_corrupted_record_goes_to_quarantine_with_its_reason_and_is_replaced(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, keys: Keys
) -> None:
    buffer = make_buffer()
    good, bad = make_trajectory(1), make_trajectory(2)
    buffer.add([good, bad])
    damaged = bytearray(encode(bad))
    damaged[-1] ^= 1
    client.hset(keys.payload, content_id(bad), bytes(damaged))

    rows = buffer.draw(2, 6, np.random.default_rng(0))

    assert [row.id for row in rows] == [content_id(good)] * 8
    (note,) = buffer.quarantine()
    assert note.id == content_id(bad) and "crc32" in note.reason and note.head.startswith(b"TRIB")
    assert (buffer.stats().quarantined, buffer.stats().size) == (1, 1)
    assert client.zscore(keys.clock, content_id(bad)) is None
    assert buffer.add([bad]).added == 1  # the way back in is open


def test_a_buffer_full_of_unreadable_records_ends_in_an_error_not_in_a_loop(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, keys: Keys
) -> None:
    buffer = make_buffer()
    buffer.add([make_trajectory(k) for k in range(100)])
    for id_ in client.hkeys(keys.payload):
        client.hset(keys.payload, id_, b"junk")
    with pytest.raises(StoreError, match=r"8 rounds found 0 of 2 readable records.*clear"):
        buffer.draw(2, 0, np.random.default_rng(0))


def test_counters_add_up_and_clear_forgets(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(capacity=2, fresh_capacity=2)
    assert buffer.stats().last_insert_age_s is None
    buffer.add([make_trajectory(k) for k in (0, 1, 1, 2)])
    buffer.draw(1, 3, np.random.default_rng(0))
    buffer.reprioritize([content_id(make_trajectory(2))], [3.0])
    stats = buffer.stats()
    assert (stats.size, stats.capacity, stats.inserted, stats.duplicates, stats.evicted) == (2, 2, 3, 1, 1)
    assert (stats.drawn, stats.updated, stats.quarantined, stats.draws_per_insert) == (4, 1, 0, 1.0)
    assert stats.last_insert_age_s is not None and 0 <= stats.last_insert_age_s < 60
    buffer.clear()
    empty = buffer.stats()
    assert (empty.size, empty.inserted, empty.fresh_waiting, empty.last_insert_age_s) == (0, 0, 0, None)


def test_two_buffers_on_one_server_do_not_meet(client: redis.Redis, name: str, make_trajectory: Make) -> None:
    left, right = (ReplayBuffer(client, BufferConfig(), f"{name}-{side}") for side in ("left", "right"))
    left.add([make_trajectory(1)])
    assert (left.stats().size, right.stats().size) == (1, 0)


def test_a_name_that_breaks_the_braces_is_refused() -> None:
    with pytest.raises(ConfigError, match="buffer name 'a}b'"):
        Keys("a}b")


def test_who_beats_is_alive_and_who_is_silent_too_long_is_not(client: redis.Redis, name: str, keys: Keys) -> None:
    heartbeats = Heartbeats(client, name)
    heartbeats.beat("actor", "1")
    heartbeats.beat("actor", "0")
    heartbeats.beat("learner", "0")
    assert heartbeats.alive("actor") == ["0", "1"]
    client.zincrby(keys.alive("actor"), -LIFETIME_S - 1, "1")  # its last beat was this much earlier
    assert heartbeats.alive("actor") == ["0"]
    assert 0 < client.ttl(keys.alive("actor")) <= LIFETIME_S


def test_a_fresh_row_keeps_the_behaviour_and_version_of_its_own_arrival(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    """The same string drawn twice: the record is the newer one's, but figures on on-policy rows must not lose the first."""
    buffer = make_buffer()
    buffer.add([make_trajectory(1, behaviour="on_policy", policy_version=4)])
    buffer.add([make_trajectory(1, behaviour="tempered", policy_version=6)])
    rows = buffer.draw(2, 0, np.random.default_rng(0))
    assert [(row.behaviour, row.policy_version) for row in rows] == [("on_policy", 4), ("tempered", 6)]
    assert {row.trajectory.policy_version for row in rows} == {6}


def test_the_fresh_queue_keeps_the_newest_arrivals(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    buffer = make_buffer(fresh_capacity=3)
    buffer.add([make_trajectory(k, policy_version=k) for k in range(10)])
    rows = buffer.draw(10, 0, np.random.default_rng(0))
    assert [row.policy_version for row in rows if row.fresh] == [7, 8, 9]


def test_what_is_set_aside_is_drawn_no_more_and_keeps_its_reason(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    items = [make_trajectory(k) for k in range(4)]
    buffer.add(items)
    ids = [content_id(item) for item in items]
    assert buffer.set_aside([ids[0], ids[2], ids[0], "gone"], "step 7: loss nan") == 2
    stats = buffer.stats()
    assert (stats.size, stats.quarantined) == (2, 2)
    assert {note.id: note.reason for note in buffer.quarantine()} == dict.fromkeys((ids[0], ids[2]), "step 7: loss nan")
    drawn = {row.id for row in buffer.draw(0, 50, np.random.default_rng(0))}
    assert drawn == {ids[1], ids[3]}
    assert buffer.set_aside([], "nothing") == 0


def test_the_newest_version_is_remembered_until_the_buffer_is_cleared(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    assert buffer.newest_version() == -1
    buffer.note_version(12)
    assert buffer.newest_version() == 12
    buffer.clear()
    assert buffer.newest_version() == -1
