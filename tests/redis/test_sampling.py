"""Draws follow the stated probabilities: chi-square against the weights, also after updates and evictions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import numpy as np
import pytest
import redis

from buffer.replay import ReplayBuffer
from buffer.store.check import snapshot
from buffer.store.item_store import DrawRequest, Handle, ItemStore, NewItem
from buffer.store.priority_levels import WEIGHTS
from buffer.store.settings import StoreSettings
from buffer.types import Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


def assert_follows(counts: Counter[int], weights: dict[int, float]) -> None:
    """Chi-square of the counts against the weights, below its 99.9 % point (Wilson-Hilferty)."""
    draws, total = counts.total(), sum(weights.values())
    assert counts.keys() <= weights.keys()
    expected = {what: draws * weight / total for what, weight in weights.items()}
    statistic = sum((counts[what] - mean) ** 2 / mean for what, mean in expected.items())
    freedom = len(weights) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.fixture
def store(client: redis.Redis, name: str) -> ItemStore:
    return ItemStore(client, name, StoreSettings(capacity=20))


def put(store: ItemStore, numbers: Iterable[int], levels: Sequence[int] | int = 256, **fields: object) -> None:
    """Items named by numbers, each in the group of its last digit."""
    new = [NewItem(n.to_bytes(16, "little"), b"r", (n % 10).to_bytes(8, "little"), 0, 0.0, 256, "t") for n in numbers]
    given = [levels] * len(new) if isinstance(levels, int) else levels
    store.put([item._replace(level=level, **fields) for item, level in zip(new, given, strict=True)])  # type: ignore[arg-type]


def number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def draw(store: ItemStore, seed: int, rows: int, **fields: object) -> list[int]:
    rows_drawn = store.draw(DrawRequest(rows=rows, **fields), seed)  # type: ignore[arg-type]
    assert rows_drawn is not None
    return [number(digest) for digest in rows_drawn.entries["digest"].tolist()]


def drawn(store: ItemStore, seed: int, draws: int = 20_000, rows: int = 500, **fields: object) -> Counter[int]:
    return Counter(n for turn in range(draws // rows) for n in draw(store, seed * 1000 + turn, rows, **fields))


def handles(store: ItemStore) -> dict[int, Handle]:
    stored = snapshot(store.client, store.keys)
    return {
        number(stored.items["digest"][slot].tobytes()): Handle(slot, int(stored.items["generation"][slot]))
        for slot in stored.live.tolist()
    }


def test_draws_follow_the_weights_also_after_updates_and_evictions(store: ItemStore) -> None:
    put(store, range(20), 240)
    assert_follows(drawn(store, 1), dict.fromkeys(range(20), 1.0))

    first = {n: 250 + n for n in range(20)}
    store.reprioritize([handles(store)[n] for n in first], list(first.values()))
    assert_follows(drawn(store, 2), {n: WEIGHTS[level] for n, level in first.items()})

    put(store, range(20, 30), 0)  # evicts the first ten; the new ones enter at the highest level, 269
    after = {n: first.get(n, 269) for n in range(10, 30)}
    assert_follows(drawn(store, 3), {n: WEIGHTS[level] for n, level in after.items()})

    changed = {n: 230 + 3 * n for n in range(15, 25)}
    store.reprioritize([handles(store)[n] for n in changed], list(changed.values()))
    assert_follows(drawn(store, 4), {n: WEIGHTS[level] for n, level in (after | changed).items()})

    store.remove([handles(store)[n] for n in (12, 24)], "quarantined")
    left = {n: level for n, level in (after | changed).items() if n not in (12, 24)}
    assert_follows(drawn(store, 5), {n: WEIGHTS[level] for n, level in left.items()})


def test_the_priority_to_the_power_of_the_exponent_is_the_weight(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(priority_exponent=0.5)
    buffer.add([make_trajectory(k) for k in range(3)], priorities=[1.0, 4.0, 64.0])
    assert buffer.stats().priority_histogram == {1.0: 1, 2.0: 1, 8.0: 1}


def test_the_first_draw_after_an_update_already_follows_the_new_weights(store: ItemStore) -> None:
    put(store, range(2))
    turns, heavy, by_number = 1500, 0, handles(store)
    light_level, heavy_level = 256, 256 + 8 * 3
    for turn in range(turns):
        store.reprioritize(
            [by_number[0], by_number[1]], [heavy_level, light_level] if turn % 2 else [light_level, heavy_level]
        )
        heavy += draw(store, turn, 1) == [1 - turn % 2]
    assert abs(heavy / turns - 8 / 9) < 4 * (8 / 9 * 1 / 9 / turns) ** 0.5


def test_updates_between_draws_do_not_bend_the_shares(store: ItemStore) -> None:
    """The learner updates after every batch; setting the same priorities again and again must change nothing."""
    put(store, range(5), levels := [250, 255, 260, 265, 270])
    by_number, counts = handles(store), Counter[int]()
    for turn in range(1500):
        rows = draw(store, turn, 4)
        counts.update(rows)
        for shift in (13, 0):
            store.reprioritize([by_number[n] for n in rows], [levels[n] + shift for n in rows])
    assert_follows(counts, {n: WEIGHTS[level] for n, level in enumerate(levels)})


def test_a_range_of_ten_billion_in_weight_is_drawn_right(store: ItemStore) -> None:
    put(store, range(12), [100] * 6 + [366] * 6)
    assert_follows(drawn(store, 6), dict.fromkeys(range(6, 12), 1.0))
    store.remove([handles(store)[n] for n in range(6, 12)], "quarantined")
    assert_follows(drawn(store, 7), dict.fromkeys(range(6), 1.0))


def test_uniform_draws_do_not_look_at_weights(store: ItemStore) -> None:
    put(store, range(20), list(range(200, 300, 5)))
    assert_follows(drawn(store, 8, sampler="uniform"), dict.fromkeys(range(20), 1.0))


@pytest.mark.parametrize("levels", [[256, 262, 268, 274], [256, 256, 256, 330]])
def test_draws_without_replacement_have_the_probabilities_of_one_after_the_other(
    store: ItemStore, levels: list[int]
) -> None:
    """All orders of three out of four: P(a, b, c) = w_a/W * w_b/(W - w_a) * w_c/(W - w_a - w_b)."""
    put(store, range(4), levels)
    weight = dict(enumerate(WEIGHTS[levels]))
    orders = Counter(
        sum(n * 10**place for place, n in enumerate(draw(store, seed, 3, replace=False))) for seed in range(12_000)
    )
    expected = {}
    for a, b, c in permutations(range(4), 3):
        total = sum(weight.values())
        first, second = weight[a] / total, weight[b] / (total - weight[a])
        expected[a + 10 * b + 100 * c] = first * second * weight[c] / (total - weight[a] - weight[b])
    assert_follows(orders, expected)


def test_without_replacement_everything_comes_once_however_unequal_the_weights(store: ItemStore) -> None:
    put(store, range(20), [1] * 9 + [511] + [256] * 10)
    for seed in range(50):
        assert sorted(draw(store, seed, 25, replace=False)) == list(range(20))


def test_stale_items_on_the_way_do_not_bend_the_draws_among_the_others(client: redis.Redis, name: str) -> None:
    counts = Counter[int]()
    levels = [256, 262, 268, 274, 280, 286]
    for seed in range(1500):
        store = ItemStore(client, f"{name}-{seed % 50}", StoreSettings(capacity=20, max_staleness=0))
        store.clear()
        put(store, range(6), levels)
        store.put([NewItem(bytes(16), b"r", bytes(8), 1, 0.0, 256, "t")])  # version 1: those of version 0 are stale
        put(store, range(10, 13), [256, 264, 272], version=1)
        counts.update(draw(store, seed, 2))
    assert_follows(counts, {0: 1.0, 10: 1.0, 11: 2.0, 12: 4.0})


def test_rows_of_one_prompt_come_together_and_prompts_by_their_weight(client: redis.Redis, name: str) -> None:
    store = ItemStore(client, name, StoreSettings(capacity=100))
    put(store, [n for n in range(100) if n % 10 < 3 or n == 43], 256)  # prompts 0, 1, 2 have ten each, 3 has one
    by_number = handles(store)
    store.reprioritize([by_number[n] for n in by_number if n % 10 == 1], [264] * 10)
    prompts, members = Counter[int](), Counter[int]()
    for seed in range(2000):
        rows = draw(store, seed, 9, rows_per_group=4)
        assert len(rows) == 8, "two whole prompts fit"
        for start in (0, 4):
            four = rows[start : start + 4]
            assert len(set(four)) == 4 and len({n % 10 for n in four}) == 1
            prompts[four[0] % 10] += 1
            members.update(n // 10 for n in four if n % 10 == 1)
    assert_follows(prompts, {0: 1.0, 1: 2.0, 2: 1.0})
    assert_follows(members, dict.fromkeys(range(10), 1.0))
    distinct = [draw(store, seed, 12, rows_per_group=4, replace=False) for seed in range(50)]
    assert all(sorted({n % 10 for n in rows}) == [0, 1, 2] for rows in distinct)


def test_rows_of_the_newest_version_are_its_arrivals_all_alike(client: redis.Redis, name: str) -> None:
    store = ItemStore(client, name, StoreSettings(capacity=50))
    put(store, range(10), 400, version=1)
    put(store, range(10, 15), 256, version=2)
    put(store, [0, 12, 12], 256, version=2)  # an old string and a new one come again
    put(store, range(20, 25), 400, version=1)  # late
    members = Counter[int]()
    for seed in range(2000):
        rows = store.draw(DrawRequest(rows=8, newest_version=4), seed)
        assert rows is not None and rows.newest_version == 4 and len(rows.entries) == 8
        members.update(number(digest) for digest in rows.entries["digest"][:4].tolist())
    assert_follows(members, {0: 1.0, 10: 1.0, 11: 1.0, 12: 3.0, 13: 1.0, 14: 1.0})


def test_the_newest_fraction_of_replayed_rows_is_of_the_newest_version(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(newest_fraction=0.3, capacity=200)
    buffer.add([make_trajectory(k, policy_version=1) for k in range(100)])
    buffer.add([make_trajectory(100, policy_version=2)])
    rng = np.random.default_rng(0)
    newest = sum(row.policy_version == 2 for _ in range(50) for row in buffer.draw(0, 64, rng))
    share, draws = 0.3 + 0.7 / 101, 50 * 64
    assert abs(newest / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5


@pytest.mark.parametrize(("sampler", "first"), [("oldest", [0, 1, 2]), ("newest", [5, 4, 3])])
def test_the_oldest_or_the_newest_come_first_where_the_recipe_says_so(
    make_buffer: MakeBuffer, make_trajectory: Make, sampler: str, first: list[int]
) -> None:
    buffer = make_buffer(sampler=sampler, max_times_sampled=1)
    items = [make_trajectory(k, policy_version=k) for k in range(6)]
    buffer.add(items)
    rng = np.random.default_rng(0)
    drawn = [[row.policy_version for row in buffer.draw(0, 3, rng)] for _ in range(3)]
    assert drawn[0] == first and sorted(drawn[0] + drawn[1]) == list(range(6)) and drawn[2] == []


def test_the_highest_rewards_come_first_where_the_recipe_says_so(
    make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer(sampler="highest_reward")
    items = [make_trajectory(k) for k in range(40)]
    buffer.add(items)
    rewards = sorted((float(item.log_reward[:, -1].sum()) for item in items), reverse=True)
    rows = buffer.draw(0, 7, np.random.default_rng(0))
    assert [float(row.trajectory.log_reward[:, -1].sum()) for row in rows] == pytest.approx(rewards[:7])


def test_the_same_seed_draws_the_same_rows(store: ItemStore) -> None:
    put(store, range(20), list(range(240, 280, 2)))
    assert draw(store, 11, 50) == draw(store, 11, 50) != draw(store, 12, 50)
