"""Random operations on the store against a plain Python model of it: hypothesis looks for a sequence that parts them.

Where the store may choose (which of several items at the lowest level leaves, what a weighted draw gives), the model
checks that the choice is one of those allowed and follows it.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.store.binary_layout import NONE
from buffer.store.check import Snapshot, findings, snapshot
from buffer.store.item_store import DrawRequest, Handle, ItemStore, NewItem, Rows
from buffer.store.priority_levels import MIDDLE
from buffer.store.settings import StoreSettings

STEPS = 10_000


@dataclass(frozen=True)
class AlertInputs:
    """The model of one item."""

    group: bytes
    version: int
    reward: float
    level: int
    arrival: int
    """Number of its last arrival: the order by age."""
    life: int
    """Number of times this digest was inserted as new."""
    draws: int = 0


@dataclass
class Model:
    """The store as plain lists and dictionaries."""

    rules: StoreSettings
    items: dict[bytes, AlertInputs] = field(default_factory=dict)
    records: dict[bytes, bytes] = field(default_factory=dict)
    """The last record of each digest, even where it was refused: the content is the same."""
    fresh: list[tuple[bytes, int, int, str]] = field(default_factory=list)
    """Arrivals not drawn as fresh yet: digest, life, version, tag."""
    lives: Counter[bytes] = field(default_factory=Counter)
    version: int = -1
    arrivals: int = 0
    totals: Counter[str] = field(default_factory=Counter)

    def too_stale(self, version: int) -> bool:
        bound = self.rules.max_staleness
        return bound >= 0 and version != NONE and version + bound < self.version

    def standing(self, item: AlertInputs) -> float:
        """Sort key of eviction: the item with the least leaves first."""
        by = {"oldest": item.arrival, "lowest_priority": item.level, "most_sampled": -item.draws}
        return by[self.rules.evict]

    def put(self, new: list[NewItem], left: set[bytes]) -> None:
        """`left`: the digests that the store holds afterwards."""
        self.records.update({item.digest: item.record for item in new})
        self.version = max([self.version, *(item.version for item in new if item.version != NONE)])
        entry_level = max((item.level for item in self.items.values()), default=MIDDLE)
        comers = [item for item in new if not self.too_stale(item.version)]
        repeats = [item for item in comers if item.digest in self.items]
        first: dict[bytes, NewItem] = {}
        for item in comers:
            if item.digest not in self.items:
                first.setdefault(item.digest, item)
        for item in repeats:
            self._refresh(item)
        admitted = self._within_quota(list(first.values()), left)
        self._evict(len(self.items) + len(admitted) - self.rules.capacity, set(self.items), left)
        for item in admitted:
            self.lives[item.digest] += 1
            self.items[item.digest] = AlertInputs(
                item.group, item.version, np.float32(item.log_reward), item.level or entry_level,
                self._arrives(), self.lives[item.digest],
            )  # fmt: skip
        entered = {item.digest for item in admitted}
        for item in comers:
            if item.digest in entered and item is not first[item.digest]:
                self._refresh(item)
        let_in = [item for item in comers if item in repeats or item.digest in entered]
        self.fresh += [(i.digest, self.lives[i.digest], i.version, i.tag) for i in let_in]
        self.fresh = self.fresh[-self.rules.capacity :]
        self.totals.update(
            {
                "inserted": len(admitted), "duplicates": len(let_in) - len(admitted),
                "refused:stale": len(new) - len(comers), "refused:quota": len(comers) - len(let_in),
            }
        )  # fmt: skip

    def _arrives(self) -> int:
        self.arrivals += 1
        return self.arrivals

    def _refresh(self, item: NewItem) -> None:
        self.items[item.digest] = replace(
            self.items[item.digest], version=item.version, reward=np.float32(item.log_reward), arrival=self._arrives()
        )

    def _within_quota(self, new: list[NewItem], left: set[bytes]) -> list[NewItem]:
        quota = self.rules.per_prompt_quota
        if not quota:
            return new
        for group in {item.group for item in new}:
            members = {digest for digest, item in self.items.items() if item.group == group}
            comers = min(quota, sum(item.group == group for item in new))
            self._evict(len(members) + comers - quota, members, left)
        rank = {id(i): sum(o.group == i.group for o in new[n + 1 :]) for n, i in enumerate(new)}
        return [item for item in new if rank[id(item)] < quota]

    def _evict(self, number: int, among: set[bytes], left: set[bytes]) -> None:
        """Of those with the least standing, the ones that really left."""
        if number <= 0:
            return
        by_standing = sorted(among, key=lambda d: (self.standing(self.items[d]), d in left))
        gone = by_standing[:number]
        assert not set(gone) & left, "an item stayed that should have left before another"
        for digest in gone:
            del self.items[digest]
        self.totals["evicted"] += number

    def draw(self, request: DrawRequest, rows: Rows, left: set[bytes]) -> None:
        """Check every row, then follow what the draw took out."""
        digests = [digest for digest in rows.entries["digest"].tolist()]
        assert all(digest in self.items for digest in digests), "a row was drawn that is not there"
        assert rows.records == [self.records[digest] for digest in digests]
        assert not any(self.too_stale(self.items[digest].version) for digest in digests)
        limit = self.rules.max_times_sampled
        times = Counter(digests)
        if limit:
            assert all(self.items[digest].draws + n <= limit for digest, n in times.items())
        self._check_fresh(request, rows, digests)
        others = digests[rows.fresh :]
        if not request.replace:
            assert len(set(others)) == len(others) and not set(others) & set(digests[: rows.fresh])
        self._check_way(request, rows, digests)
        if limit or self.rules.ranked_by == "draws":
            for digest, n in times.items():
                self.items[digest] = replace(self.items[digest], draws=self.items[digest].draws + n)
        spent = {digest for digest in times if limit and self.items[digest].draws >= limit}
        stale = {digest for digest, item in self.items.items() if self.too_stale(item.version)}
        gone = set(self.items) - left
        assert spent <= gone <= spent | stale
        for digest in gone:
            del self.items[digest]
        self.totals.update({"drawn": len(digests), "max_draws_reached": len(spent), "expired": len(gone - spent)})

    def _check_fresh(self, request: DrawRequest, rows: Rows, digests: list[bytes]) -> None:
        """Of the newest `fresh_window` those waiting longest, as long as there are any."""
        expected, times = list[tuple[bytes, int, str]](), Counter[bytes]()
        limit = self.rules.max_times_sampled
        if request.fresh and request.fresh_window:
            self.fresh = self.fresh[-request.fresh_window :]
        while len(expected) < min(request.fresh, request.rows) and self.fresh:
            digest, life, version, tag = self.fresh.pop(0)
            item = self.items.get(digest)
            if item and item.life == life and not self.too_stale(item.version):
                if limit and item.draws + times[digest] >= limit:
                    continue
                times[digest] += 1
                expected.append((digest, version, tag))
        got = zip(digests[: rows.fresh], rows.versions.tolist(), rows.tags, strict=True)
        assert list(got) == expected

    def _check_way(self, request: DrawRequest, rows: Rows, digests: list[bytes]) -> None:
        taken = Counter(digests[: rows.fresh + rows.newest_version])
        chosen, limit = digests[rows.fresh + rows.newest_version :], self.rules.max_times_sampled
        free = [
            digest
            for digest, item in self.items.items()
            if not self.too_stale(item.version)
            and not (taken[digest] and not request.replace)
            and not (limit and item.draws + taken[digest] >= limit)
        ]
        missing = 0 if request.fresh_needed else request.rows - rows.fresh - rows.newest_version
        in_order = {
            "oldest": lambda digest: self.items[digest].arrival,
            "newest": lambda digest: -self.items[digest].arrival,
            "highest_reward": lambda digest: -self.items[digest].reward,
        }
        if request.sampler in in_order:
            key = in_order[request.sampler]
            assert [key(digest) for digest in chosen] == sorted(map(key, free))[:missing]
        elif request.rows_per_group > 1:
            assert len(chosen) % request.rows_per_group == 0
            for start in range(0, len(chosen), request.rows_per_group):
                group = chosen[start : start + request.rows_per_group]
                assert len({self.items[digest].group for digest in group}) == 1 and len(set(group)) == len(group)
        else:
            rest = [limit - self.items[d].draws - taken[d] if limit else missing for d in free]
            room = sum(rest) if request.replace else len(free)
            assert len(chosen) == min(missing, room)


new_items = st.lists(
    st.tuples(
        st.integers(0, 40),  # what it is
        st.sampled_from([0, 0, 1, 2, 3, None]),  # how many versions behind; None: a given string
        st.sampled_from([-3.0, -1.0, 0.0, 2.5]),
        st.sampled_from([0, 0, 240, 256, 300]),
        st.sampled_from(["on_policy", "tempered"]),
    ),
    min_size=1,
    max_size=24,
)
requests = st.builds(
    DrawRequest,
    rows=st.integers(1, 30),
    fresh=st.integers(0, 8),
    fresh_window=st.none() | st.integers(1, 20),
    fresh_needed=st.sampled_from([0, 0, 0, 1, 3, 8]),
    newest_version=st.integers(0, 5),
    sampler=st.sampled_from(["weighted", "uniform", "oldest", "newest", "highest_reward"]),
    replace=st.booleans(),
    rows_per_group=st.sampled_from([1, 1, 2, 3]),
)


class StoreAgainstModel(RuleBasedStateMachine):
    """One store and its model."""

    client: ClassVar[redis.Redis]
    steps: ClassVar[int] = 0

    @initialize(
        capacity=st.integers(1, 30),
        evict=st.sampled_from(["oldest", "lowest_priority", "most_sampled"]),
        quota=st.sampled_from([0, 0, 2, 5]),
        max_draws=st.sampled_from([0, 0, 1, 3]),
        max_staleness=st.sampled_from([-1, -1, 0, 2]),
    )
    def start(self, capacity: int, evict: Any, quota: int, max_draws: int, max_staleness: int) -> None:
        rules = StoreSettings(
            capacity=capacity, evict=evict, per_prompt_quota=quota, max_times_sampled=max_draws,
            max_staleness=max_staleness, rank_by_reward=True,
        )  # fmt: skip
        self.store, self.model = ItemStore(self.client, uuid4().hex, rules), Model(rules)
        self.handles: list[tuple[Handle, bytes, int]] = []
        self.version = 0

    @rule(batch=new_items, newer=st.booleans())
    def put(self, batch: list[tuple[int, int | None, float, int, str]], newer: bool) -> None:
        self.version += newer
        new = [
            NewItem(
                digest=what.to_bytes(16, "little"), record=os.urandom(8), group=(what % 3).to_bytes(8, "little"),
                version=NONE if behind is None else max(0, self.version - behind), log_reward=reward, level=level,
                tag=tag,
            )
            for what, behind, reward, level, tag in batch[: self.store.chunk]
        ]  # fmt: skip
        before = self.model.totals.copy()
        result = self.store.put(new)
        self.model.put(new, self._there())
        assert result is not None
        gained = self.model.totals - before
        assert result.added == gained["inserted"] and result.duplicates == gained["duplicates"]
        assert result.evicted == gained["evicted"]
        assert (result.stale, result.over_quota) == (gained["refused:stale"], gained["refused:quota"])

    @rule(request=requests, seed=st.integers(0, 2**31 - 1))
    def draw(self, request: DrawRequest, seed: int) -> None:
        if request.sampler == "highest_reward" and self.model.rules.ranked_by != "reward":
            request = replace(request, sampler="uniform")
        rows = self.store.draw(request, seed)
        if rows is None:
            waiting = min(len(self.model.fresh), request.fresh_window or len(self.model.fresh))
            assert not self.model.items or waiting < request.fresh_needed
            return
        assert request.fresh_needed <= min(len(self.model.fresh), request.fresh_window or len(self.model.fresh))
        for entry in rows.entries.tolist():
            digest = entry[4]
            self.handles.append((Handle(entry[0], entry[1]), digest, self.model.items[digest].life))
        self.model.draw(request, rows, self._there())

    @rule(levels=st.lists(st.integers(1, 511), min_size=1, max_size=12), data=st.data())
    def reprioritize(self, levels: list[int], data: st.DataObject) -> None:
        if not self.handles:
            return
        chosen = [self.handles[data.draw(st.integers(0, len(self.handles) - 1))] for _ in levels]
        alive = [self._alive(digest, life) for _, digest, life in chosen]
        assert self.store.reprioritize([handle for handle, _, _ in chosen], levels) == sum(alive)
        for (_, digest, _), level, there in zip(chosen, levels, alive, strict=True):
            if there:
                self.model.items[digest] = replace(self.model.items[digest], level=level)
        self.model.totals.update({"updated": sum(alive), "update_misses": len(alive) - sum(alive)})

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if not self.handles:
            return
        chosen = [self.handles[data.draw(st.integers(0, len(self.handles) - 1))] for _ in range(2)]
        there = {digest for _, digest, life in chosen if self._alive(digest, life)}
        assert self.store.remove([handle for handle, _, _ in chosen], "quarantined") == len(there)
        for digest in there:
            del self.model.items[digest]
        self.model.totals["quarantined"] += len(there)

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        type(self).steps += 1
        stored = snapshot(self.client, self.store.keys)
        assert findings(stored) == []
        items = stored.items[stored.live]
        by_age = items[np.argsort(items["arrival"])]
        model = sorted(self.model.items.items(), key=lambda pair: pair[1].arrival)
        names = ("digest", "group", "version", "log_reward", "level", "arrival", "draws")
        stored_items = list(zip(*(by_age[name].tolist() for name in names), strict=True))
        assert stored_items == [(d, i.group, i.version, i.reward, i.level, i.arrival, i.draws) for d, i in model]
        for name, number in self.model.totals.items():
            assert int(stored.counters.get(name, 0)) == number, name
        assert int(stored.counters.get("arrivals", 0)) == self.model.arrivals

    def _alive(self, digest: bytes, life: int) -> bool:
        item = self.model.items.get(digest)
        return item is not None and item.life == life

    def _there(self) -> set[bytes]:
        stored: Snapshot = snapshot(self.client, self.store.keys)
        return set(stored.items["digest"][stored.live].tolist())


def test_ten_thousand_random_operations_leave_the_store_as_a_plain_model_has_it(server: RedisServer) -> None:
    with connect(server.url) as client:
        StoreAgainstModel.client = client
        StoreAgainstModel.steps = 0
        run_state_machine_as_test(
            StoreAgainstModel,
            settings=settings(
                max_examples=260,
                stateful_step_count=60,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],  # report a failure at once; add Phase.shrink to minimise it
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert StoreAgainstModel.steps >= STEPS
