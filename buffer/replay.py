"""The replay buffer: prioritised, bounded, without repeats; it survives the death of any process.

consumes   scored trajectories (RewardWorker.add), priorities (Learner.reprioritize)
produces   rows for the learner: the fresh ones first come first served, the rest in proportion to weight
waits for  `add` blocks while inserts run ahead of samples_per_insert; `draw` never blocks, it returns []
weight     priority ** priority_exponent, rounded to a level of store/priority_levels.py

This file converts trajectories to the records of store/item_store.py, and back.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis

from buffer.codec import encode
from buffer.config import SAMPLERS, BufferConfig
from buffer.drawn_rows import NO_VERSION, Drawn, DrawnRows
from buffer.errors import RecordError, StoreError
from buffer.lease import Lease
from buffer.named_wait import NamedWait
from buffer.near_duplicates import NearDuplicates
from buffer.quarantine import ENTRIES_KEPT, Quarantine, Quarantined
from buffer.server.connect import store_errors
from buffer.store.item_store import DrawRequest, Handle, ItemStore, NewItem, RateLimiter
from buffer.store.priority_levels import level_of
from buffer.store.statistics import BufferStats, read_stats
from buffer.stored_policy import StoredPolicy
from buffer.types import Trajectory, prompt_digest, total_log_reward

DRAW_ROUNDS = 8
POLL_S = 0.05
_DRAWS_ENDED = "draws_ended"
HIGHEST_VERSION = NO_VERSION - 1


@dataclass(frozen=True, slots=True)
class AddResult:
    """Counts of one `add`; added, duplicates and refused add up to the number of its trajectories."""

    added: int
    duplicates: int
    evicted: int
    refused: dict[str, int] = field(default_factory=dict)
    """Reason -> trajectories refused."""


class ReplayBuffer:
    """The buffer called `name`. Each process builds its own on its own client; the state is in Redis."""

    def __init__(
        self, client: redis.Redis, config: BufferConfig, name: str, weights: Mapping[str, float] | None = None
    ) -> None:
        """`weights` of the reward terms in log R, for histograms, rankings and near duplicates."""
        self._client = client
        self._weights = {} if weights is None else weights
        self._config = config
        self.store = ItemStore(client, name, config.settings)
        self._published = -1
        self.lease = Lease(self.store)
        self._quarantine = Quarantine(self.store)
        self._rows = DrawnRows(self.store, self._quarantine)
        self._near_duplicates = NearDuplicates(self.store, config.advanced.near_duplicate_distance)

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limit on samples per insert."""
        return self._config.rate_limiter

    @store_errors("adding trajectories")
    def add(self, trajectories: Sequence[Trajectory], priorities: Sequence[float] | None = None) -> AddResult:
        """Store scored trajectories; make room when full.

        A trajectory whose `content_id` is in the buffer replaces the older record and keeps its weight; every arrival,
        repeats included, also becomes a fresh row. New ones enter at the highest weight in the buffer, or at those of
        `priorities`. Malformed ones, and those that no adapter of the run's policy can have written, go to quarantine,
        one by one. Blocks while the learner is behind (samples_per_insert). Raise RecordError, and store nothing, if
        one is unscored; WaitTimeout when the learner stays behind.
        """
        items, malformed, refused = list[NewItem](), list[Quarantined](), Counter[str]()
        newest = self._newest_of(trajectories)
        for i, trajectory in enumerate(trajectories):
            if not trajectory.is_scored:
                raise RecordError(f"a trajectory of prompt {trajectory.prompt_id!r} is unscored; score it before add")
            try:
                item = self._item(trajectory, None if priorities is None else priorities[i])
                if problem := self._problem(trajectory, newest):
                    raise RecordError(problem)
            except RecordError as error:
                malformed.append(Quarantined.from_record(trajectory.content_id, str(error), b""))
                continue
            if len(item.record) > self._config.advanced.max_record_bytes:
                refused["too_large"] += 1
            else:
                items.append(item)
        if self._config.advanced.near_duplicate_distance:
            items, refused["near_duplicate"] = self._near_duplicates.admit(items)
        self.store.count_refused(refused)
        if malformed:
            self._quarantine.add_refused(malformed, "malformed")
            refused["malformed"] = len(malformed)
        added = duplicates = evicted = 0
        for start in range(0, len(items), self.store.chunk):
            result = self._put(items[start : start + self.store.chunk])
            added, duplicates, evicted = added + result.added, duplicates + result.duplicates, evicted + result.evicted
            refused += Counter(stale=result.stale, quota=result.over_quota)
        return AddResult(added, duplicates, evicted, dict(+refused))

    @store_errors("drawing trajectories")
    def draw(
        self, fresh: int, replay: int, rng: np.random.Generator, fresh_window: int | None = None, fresh_needed: int = 0
    ) -> list[Drawn]:
        """`fresh` + `replay` rows: at most `fresh` that have just arrived, oldest first, the rest by the sampler.

        Only the newest `fresh_window` arrivals can be fresh, so that actors faster than the learner don't make fresh
        rows old; None: no limit.

        Empty while too few have arrived, fewer than `fresh_needed` wait to be fresh, or draws are ahead of inserts.
        Unreadable records, and strings that the policy cannot have written, go to quarantine and are replaced; raise
        StoreError if DRAW_ROUNDS rounds are not enough.
        """
        wanted, rows = fresh + replay, list[Drawn]()
        for _ in range(DRAW_ROUNDS):
            missing = wanted - len(rows)
            newest = int(rng.binomial(max(missing - fresh, 0), self._config.advanced.newest_fraction))
            request = DrawRequest(
                rows=missing,
                fresh=fresh,
                fresh_window=fresh_window,
                fresh_needed=fresh_needed,
                newest_version=newest,
                sampler=SAMPLERS[self._config.advanced.sampler],
                replace=self._config.advanced.replacement,
                rows_per_group=min(self._config.rows_per_prompt, missing),
            )
            drawn = self.store.draw(request, int(rng.integers(2**31)), self._config.rate_limiter) if missing else None
            if drawn is None:
                return rows
            readable = self._rows.readable(drawn)
            rows += readable
            if fresh_needed or len(drawn.entries) == len(readable):
                return rows
            fresh = 0  # the sampler replaces unreadable records
        raise StoreError(
            f"only {len(rows)} of {wanted} rows were readable after {DRAW_ROUNDS} rounds of draws; `tributary buffer "
            "stats` shows why. Clear the buffer if another release wrote it, or if the server's maxmemory-policy "
            "evicts keys: set it to noeviction"
        )

    @store_errors("setting priorities")
    def reprioritize(self, ids: Sequence[Handle], priorities: Sequence[float]) -> int:
        """Set priorities (absolute, >= 0, no unit); return the number of ids that were still in the buffer.

        Raise ValueError for a priority that is negative or not finite.
        """
        levels = [level_of(float(priority), self._config.priority_exponent) for priority in priorities]
        return self.store.reprioritize(ids, levels) if ids else 0

    @store_errors("reading the buffer's statistics")
    def stats(self) -> BufferStats:
        """Counters, sizes and histograms, O(1)."""
        return read_stats(self._client, self.store.keys, self._config.capacity)

    @store_errors("reading the quarantine")
    def quarantined(self, limit: int = ENTRIES_KEPT) -> list[Quarantined]:
        """The newest `limit` entries of the quarantine, which keeps the last ENTRIES_KEPT."""
        return self._quarantine.newest(limit)

    @store_errors("moving trajectories to quarantine")
    def quarantine(self, rows: Sequence[Drawn], reason: str) -> int:
        """Move readable but harmful rows to quarantine; return the number that were still in the buffer."""
        rows = list({row.id: row for row in rows}.values())
        records = self.store.records([bytes.fromhex(row.content_id) for row in rows])
        entries = [
            Quarantined.from_record(row.content_id, reason, record or b"")
            for row, record in zip(rows, records, strict=True)
        ]
        return self._quarantine.move([row.id for row in rows], entries) if rows else 0

    @store_errors("rejecting trajectories")
    def reject(self, trajectories: Sequence[Trajectory], reasons: Sequence[str]) -> None:
        """Record in the quarantine trajectories whose reward could not be computed."""
        entries = [
            Quarantined.from_record(trajectory.content_id, reason, _record(trajectory))
            for trajectory, reason in zip(trajectories, reasons, strict=True)
        ]
        if entries:
            self._quarantine.add_refused(entries, "reward_failed")

    @store_errors("ending the draws")
    def end_draws(self) -> None:
        """The learner has finished: inserts are not rate-limited until `begin_draws`."""
        self._client.hset(self.store.keys.counters, _DRAWS_ENDED, 1)

    @store_errors("beginning the draws")
    def begin_draws(self) -> None:
        """A learner is about to draw: inserts are rate-limited by samples_per_insert."""
        self._client.hdel(self.store.keys.counters, _DRAWS_ENDED)

    @store_errors("storing the newest version")
    def note_version(self, number: int) -> None:
        """Store the newest published adapter version, for a restarted learner. Takes the lease if it has none yet.

        StoreError as in `Lease.require`; nothing is stored then.
        """
        if not self.lease.token:
            self.lease.take()
        if not self.store.publish(self.lease.token, number):
            self.lease.require()

    @store_errors("reading the newest version")
    def newest_version(self) -> int:
        """The version of the last `note_version`; -1 before the first."""
        number: Any = self._client.hget(self.store.keys.counters, "published")
        return -1 if number is None else int(number)

    @store_errors("storing the policy")
    def note_policy(self, policy: StoredPolicy) -> None:
        """Store what the buffer's strings belong to: draws and imports check strings against it."""
        self._client.hset(self.store.keys.counters, "policy", policy.model_dump_json())

    @property
    def policy(self) -> StoredPolicy | None:
        """What `note_policy` stored; None for a buffer that no run has used. Read once."""
        return self._rows.policy

    @store_errors("clearing the buffer")
    def clear(self) -> None:
        """Delete everything, counters and quarantine included; the next call of any other client raises StoreError."""
        self.store.clear()
        self._client.delete(self.store.keys.poison_strings, self.store.keys.actors)

    @store_errors("loading the buffer's scripts")
    def load_scripts(self) -> bool:
        """Load the scripts that the server lacks; True if it lacked one, as after a restart. The driver's task."""
        return self.store.load_scripts()

    @store_errors("taking over the buffer")
    def adopt(self) -> None:
        """Keep the content, and put it under this buffer's settings."""
        self.store.adopt()

    def _newest_of(self, trajectories: Sequence[Trajectory]) -> int:
        """The newest published version, read where one of these has a higher one than the last reading; or -1."""
        if max((t.policy_version for t in trajectories if t.adapter_digest), default=-1) > self._published:
            self._published = self.newest_version()
        return self._published

    def _problem(self, trajectory: Trajectory, newest: int) -> str | None:
        """Why no adapter of the run's policy can have written this string, or None."""
        if trajectory.adapter_digest and trajectory.policy_version > newest >= 0:
            return f"policy_version = {trajectory.policy_version}; the newest published one is {newest}"
        return self.policy.problem(trajectory) if self.policy else None

    def _item(self, trajectory: Trajectory, priority: float | None) -> NewItem:
        is_given = not trajectory.adapter_digest
        if not is_given and not 0 <= trajectory.policy_version <= HIGHEST_VERSION:
            raise RecordError(f"policy_version = {trajectory.policy_version} must be within 0 ... {HIGHEST_VERSION}")
        return NewItem(
            digest=bytes.fromhex(trajectory.content_id),
            record=encode(trajectory),
            group=prompt_digest(trajectory.prompt_id),
            version=NO_VERSION if is_given else trajectory.policy_version,
            log_reward=float(total_log_reward(trajectory, self._weights)[-1]),
            level=0 if priority is None else level_of(float(priority), self._config.priority_exponent),
            tag=trajectory.behaviour,
        )

    def _put(self, items: Sequence[NewItem]) -> Any:
        wait: NamedWait | None = None
        while (result := self.store.put(items, self._config.rate_limiter)) is None:
            if self._client.hget(self.store.keys.counters, _DRAWS_ENDED):
                return self.store.put(items)  # the learner has finished, so inserts are no longer rate-limited
            wait = wait or NamedWait(
                "reward worker waits for the learner to draw",
                self._config.advanced.insert_wait_limit_s,
                self._describe_pace,
            )
            wait.check()
            time.sleep(POLL_S)
        return result

    def _describe_pace(self) -> str:
        stats, config = self.stats(), self._config
        return (
            f"{stats.drawn} rows drawn after {stats.arrivals} arrivals, samples_per_insert asks for "
            f"{config.samples_per_insert:g} per arrival (within {config.advanced.samples_per_insert_band:g} rows)"
        )


def _record(trajectory: Trajectory) -> bytes:
    """The record of a trajectory; empty where it is malformed."""
    try:
        return encode(trajectory)
    except RecordError:
        return b""
