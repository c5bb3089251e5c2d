"""The replay buffer: prioritised, bounded, without repeats, and alive when any process dies.

consumes   scored trajectories (RewardWorker.add), priorities (Learner.reprioritize)
produces   rows for the learner: the fresh ones first come first served, the rest in proportion to weight
waits for  an `add` waits for draws where samples per insert are limited; whoever draws gets nothing, and waits itself
weight     priority ** priority_exponent, rounded as levels.py tells

This file turns trajectories into the records and rules of store.py, and back.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import redis

from buffer.codec import content_id, decode, encode
from buffer.config import SAMPLERS, BufferConfig
from buffer.errors import RecordError, StoreError
from buffer.named_wait import NamedWait
from buffer.near_duplicates import NearDuplicates
from buffer.server.connect import store_errors
from buffer.store.binary_layout import GROUP_BYTES, NONE
from buffer.store.item_store import DrawRequest, Handle, ItemStore, NewItem, RateLimiter, Rows
from buffer.store.priority_levels import WEIGHTS, level_of
from buffer.store.statistics import BufferStats, read_stats
from buffer.types import Trajectory, total_log_reward

DRAW_ROUNDS = 8
QUARANTINE_KEPT = 100
QUARANTINE_HEAD_BYTES = 1024
POLL_S = 0.05
_DRAWS_ENDED = "draws_ended"
HIGHEST_VERSION = NONE - 1
TIMELESS = NONE
"""Version of a given string in the store: it is never too stale."""


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of the trajectories of one `add`; added, duplicates and refused add up to their number."""

    added: int
    duplicates: int
    evicted: int
    refused: dict[str, int] = field(default_factory=dict)
    """Reason -> how many."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row of a batch."""

    id: Handle
    trajectory: Trajectory
    fresh: bool
    """Drawn because it had just arrived, once per arrival."""
    policy_version: int
    """Of this arrival; the record holds that of the string's newest one."""
    behaviour: str
    """Likewise."""
    probability: float | None = None
    """With which each draw by weight, or each uniform one, gives this row; None for one that came otherwise."""
    content_id: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that could not be read, or was set aside."""

    id: str
    """Its content id."""
    reason: str
    head: bytes
    """Its first bytes."""


class ReplayBuffer:
    """The buffer called `name`. Each process builds its own on its own client; the state is in Redis."""

    def __init__(
        self, client: redis.Redis, config: BufferConfig, name: str, weights: Mapping[str, float] | None = None
    ) -> None:
        """`weights` of reward terms: what a trajectory's log R is, where something goes by it."""
        self._client = client
        self._weights = weights or {}
        self._config = config
        self.store = ItemStore(client, name, config.settings)
        self._near = NearDuplicates(self.store, config.advanced.near_duplicate_distance)

    @property
    def rate_limiter(self) -> RateLimiter:
        """Who may go on when."""
        return self._config.rate_limiter

    @store_errors("adding trajectories")
    def add(self, trajectories: Sequence[Trajectory], priorities: Sequence[float] | None = None) -> AddResult:
        """Store scored trajectories; make room when full.

        One that is there already (same `content_id`) is replaced by the newer record and keeps its weight; each one,
        repeats included, also becomes a fresh row. New ones enter at the highest weight in the buffer, or at those of
        `priorities`. Waits while the learner is behind (samples_per_insert). Raise RecordError, and store nothing, if
        one is unscored or malformed; WaitTimeout when the learner stays behind.
        """
        items, refused = list[NewItem](), Counter[str]()
        for i, trajectory in enumerate(trajectories):
            if not trajectory.is_scored:
                raise RecordError(f"a trajectory of prompt {trajectory.prompt_id!r} is unscored; score it before add")
            item = self._item(trajectory, None if priorities is None else priorities[i])
            if len(item.record) > self._config.advanced.max_record_bytes:
                refused["too_large"] += 1
            else:
                items.append(item)
        if self._config.advanced.near_duplicate_distance:
            items, refused["near_duplicate"] = self._near.admit(items)
        self.store.count_refused(refused)
        added = duplicates = evicted = 0
        for start in range(0, len(items), self.store.chunk):
            result = self._put(items[start : start + self.store.chunk])
            added, duplicates, evicted = added + result.added, duplicates + result.duplicates, evicted + result.evicted
            refused += Counter(stale=result.stale, quota=result.over_quota)
        return AddResult(added, duplicates, evicted, dict(+refused))

    @store_errors("drawing trajectories")
    def draw(self, fresh: int, replay: int, rng: np.random.Generator) -> list[Drawn]:
        """`fresh` + `replay` rows: at most `fresh` that have just arrived, oldest first, the rest by the sampler.

        Empty while too few have arrived or draws are ahead of inserts. Records that can't be read go to quarantine and
        are replaced; StoreError if that never ends.
        """
        wanted, rows = fresh + replay, list[Drawn]()
        for _ in range(DRAW_ROUNDS):
            missing = wanted - len(rows)
            newest = int(rng.binomial(max(missing - fresh, 0), self._config.advanced.newest_fraction))
            request = DrawRequest(
                rows=missing,
                fresh=fresh,
                newest_version=newest,
                way=SAMPLERS[self._config.advanced.sampler],
                replace=self._config.advanced.replacement,
                together=self._config.rows_per_prompt,
            )
            found = self.store.draw(request, int(rng.integers(2**31)), self._config.rate_limiter) if missing else None
            if found is None:
                return rows
            readable = self._readable(found)
            rows += readable
            if len(found.entries) == len(readable):
                return rows
            fresh = 0  # what could not be read is made up for by the sampler
        raise StoreError(
            f"{DRAW_ROUNDS} rounds found {len(rows)} of {wanted} readable records; look at quarantine(), and clear() "
            "the buffer if another release wrote it"
        )

    @store_errors("setting priorities")
    def reprioritize(self, ids: Sequence[Handle], priorities: Sequence[float]) -> int:
        """Set priorities (absolute, >= 0, no unit); return how many ids were still there.

        Raise ValueError for a priority that is negative or not finite.
        """
        levels = [level_of(float(priority), self._config.priority_exponent) for priority in priorities]
        return self.store.reprioritize(ids, levels) if ids else 0

    @store_errors("reading the buffer's statistics")
    def stats(self) -> BufferStats:
        """Counters, sizes and histograms, O(1)."""
        return read_stats(self._client, self.store.keys, self._config.capacity)

    @store_errors("reading the buffer's events")
    def events(self, after: str, limit: int = 1000) -> list[Any]:
        """What happened since the event `after` ("-": all that is kept): [(id, {field: text})], oldest first.

        An id starts with the server's time in ms. About the last 10,000 calls are kept.
        """
        start = after if after == "-" else f"({after}"
        found: Any = self._client.xrange(self.store.keys.events, start, "+", count=limit)
        return list(found)

    @store_errors("reading the quarantine")
    def quarantined(self, limit: int = QUARANTINE_KEPT) -> list[Quarantined]:
        """The newest `limit` unreadable records; the last QUARANTINE_KEPT are kept."""
        notes: Any = self._client.lrange(self.store.keys.quarantine, 0, limit - 1)
        return [Quarantined(*msgpack.unpackb(note)) for note in notes]

    @store_errors("setting trajectories aside")
    def quarantine(self, rows: Sequence[Drawn], reason: str) -> int:
        """Move rows that can be read but do harm to quarantine; return how many were still there."""
        rows = list({row.id: row for row in rows}.values())
        records = self.store.records([bytes.fromhex(row.content_id) for row in rows])
        notes = [_note(row.content_id, reason, record or b"") for row, record in zip(rows, records, strict=True)]
        return self._quarantine([row.id for row in rows], notes) if rows else 0

    @store_errors("refusing trajectories")
    def reject(self, trajectories: Sequence[Trajectory], reasons: Sequence[str]) -> None:
        """Keep a note of trajectories that can't come in, such as those whose reward could not be computed."""
        notes = [
            _note(content_id(trajectory), reason, encode(trajectory))
            for trajectory, reason in zip(trajectories, reasons, strict=True)
        ]
        if notes:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.lpush(self.store.keys.quarantine, *notes)
                pipe.ltrim(self.store.keys.quarantine, 0, QUARANTINE_KEPT - 1)
                pipe.hincrby(self.store.keys.counters, "refused:reward_failed", len(notes))
                pipe.execute()

    @store_errors("telling who waits that draws have ended")
    def end_draws(self) -> None:
        """No learner will draw: whoever waits for one to catch up goes on at once, until `begin_draws`."""
        self._client.hset(self.store.keys.counters, _DRAWS_ENDED, 1)

    @store_errors("telling who waits that draws begin")
    def begin_draws(self) -> None:
        """A learner is about to draw: samples per insert hold."""
        self._client.hdel(self.store.keys.counters, _DRAWS_ENDED)

    @store_errors("noting the newest version")
    def note_version(self, number: int) -> None:
        """Remember the newest adapter version published, for a learner that is started again."""
        self._client.hset(self.store.keys.counters, mapping={"published": number, "version": number})

    @store_errors("reading the newest version")
    def newest_version(self) -> int:
        """What `note_version` was told last; -1 before."""
        number: Any = self._client.hget(self.store.keys.counters, "published")
        return -1 if number is None else int(number)

    @store_errors("clearing the buffer")
    def clear(self) -> None:
        """Forget everything, counters and quarantine included. Others that use it are told so by their next call."""
        self.store.clear()
        self._client.delete(self.store.keys.suspects)

    @store_errors("taking over the buffer")
    def adopt(self) -> None:
        """Keep what is there, whatever settings it was kept under."""
        self.store.adopt()

    def _item(self, trajectory: Trajectory, priority: float | None) -> NewItem:
        given = not trajectory.adapter_digest
        if not given and not 0 <= trajectory.policy_version <= HIGHEST_VERSION:
            raise RecordError(f"policy_version = {trajectory.policy_version} must be within 0 ... {HIGHEST_VERSION}")
        return NewItem(
            digest=bytes.fromhex(content_id(trajectory)),
            record=encode(trajectory),
            group=group_of(trajectory.prompt_id),
            version=TIMELESS if given else trajectory.policy_version,
            log_reward=float(total_log_reward(trajectory, self._weights)[-1]),
            level=0 if priority is None else level_of(float(priority), self._config.priority_exponent),
            tag=trajectory.behaviour,
        )

    def _put(self, items: Sequence[NewItem]) -> Any:
        wait: NamedWait | None = None
        while (result := self.store.put(items, self._config.rate_limiter)) is None:
            if self._client.hget(self.store.keys.counters, _DRAWS_ENDED):
                return self.store.put(items)  # nobody is left to be ahead of
            wait = wait or NamedWait(
                "reward worker waits for the learner to draw",
                self._config.advanced.insert_wait_limit_s,
                self._pace_in_words,
            )
            wait.check()
            time.sleep(POLL_S)
        return result

    def _pace_in_words(self) -> str:
        stats, config = self.stats(), self._config
        return (
            f"{stats.drawn} rows drawn of {stats.arrivals} arrivals, {config.samples_per_insert:g} for each are wanted "
            f"(give or take {config.advanced.samples_per_insert_band:g} rows)"
        )

    def _readable(self, found: Rows) -> list[Drawn]:
        """The rows whose records are still there and can be read; the unreadable ones go to quarantine."""
        rows, decoded, bad = list[Drawn](), dict[bytes, Trajectory | None](), list[tuple[Handle, bytes]]()
        weighted = self._config.advanced.sampler in ("prioritized", "uniform") and self._config.rows_per_prompt == 1
        for i, (entry, record) in enumerate(zip(found.entries.tolist(), found.records, strict=True)):
            slot, generation, version, level, digest = entry
            if record is None:
                continue  # it left since it was drawn
            if digest not in decoded:
                decoded[digest] = self._decode(Handle(slot, generation), digest, record, bad)
            trajectory = decoded[digest]
            if trajectory is None:
                continue
            probability = None
            if weighted and i >= found.fresh + found.newest_version:
                uniform = self._config.advanced.sampler == "uniform"
                probability = 1.0 / found.size if uniform else float(WEIGHTS[level]) / found.mass
            fresh = i < found.fresh
            arrived = int(found.versions[i]) if fresh else version
            rows.append(
                Drawn(
                    id=Handle(slot, generation),
                    trajectory=trajectory,
                    fresh=fresh,
                    policy_version=trajectory.policy_version if arrived == TIMELESS else arrived,
                    behaviour=found.tags[i] if fresh else trajectory.behaviour,
                    probability=probability,
                    content_id=digest.hex(),
                )
            )
        if bad:
            self._quarantine([handle for handle, _ in bad], [note for _, note in bad])
        return rows

    def _decode(
        self, handle: Handle, digest: bytes, record: bytes, bad: list[tuple[Handle, bytes]]
    ) -> Trajectory | None:
        try:
            return decode(record)
        except RecordError as error:
            bad.append((handle, _note(digest.hex(), str(error), record)))
            return None

    def _quarantine(self, handles: Sequence[Handle], notes: Sequence[bytes]) -> int:
        return self.store.remove(handles, "quarantined", notes, QUARANTINE_KEPT)


def importance_weights(rows: Sequence[Drawn], beta: float, size: int) -> list[float]:
    """[B] (size * probability) ** -beta over the largest of them (Schaul et al., arXiv 1511.05952, section 3.4).

    `size` is the number of trajectories in the buffer; rows that came otherwise than by weight get 1. With beta = 1 a
    weighted mean over draws with replacement estimates, up to that factor, the plain mean over the buffer.
    """
    weights = [1.0 if row.probability is None else (size * row.probability) ** -beta for row in rows]
    largest = max((w for w, row in zip(weights, rows, strict=True) if row.probability is not None), default=1.0)
    return [w if row.probability is None else w / largest for w, row in zip(weights, rows, strict=True)]


def group_of(prompt_id: str) -> bytes:
    """The store's name for what belongs to one prompt."""
    return hashlib.blake2b(prompt_id.encode("utf-8", "surrogatepass"), digest_size=GROUP_BYTES).digest()


def _note(content: str, reason: str, record: bytes) -> bytes:
    return bytes(msgpack.packb([content, reason, record[:QUARANTINE_HEAD_BYTES]]))
