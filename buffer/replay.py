"""The replay buffer: prioritised, bounded, without repeats, and alive when any process dies.

consumes   scored trajectories (RewardWorker.add), priorities (Learner.reprioritize)
produces   rows for the learner: the fresh ones first come first served, the rest in proportion to weight
waits for  nothing but Redis; whoever finds too little in it waits with a NamedWait
weight     priority ** priority_exponent, kept within WEIGHT_RANGE

Every write is one Lua script, hence atomic, and harmless when redis-py sends it again after a lost reply; only a
repeated draw loses the fresh rows that were on their way. How draws are made is told in lua/draw.lua.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgpack
import numpy as np
import redis

from buffer.codec import content_id, decode, encode
from buffer.config import BufferConfig
from buffer.connect import store_errors
from buffer.errors import RecordError, StoreError
from buffer.keys import Keys
from buffer.scripts import Scripts
from buffer.types import Trajectory

WEIGHT_RANGE = (1e-6, 1e6)
"""Nothing starves, nothing takes all, and draw.lua's clocks stay within what a double resolves."""
ADD_CHUNK = 256
"""Trajectories per script call: a script blocks the server, some 30 µs each."""
ANSWER_LIFETIME_S = 120
"""How long an add call can be repeated without effect; redis-py gives up much sooner."""
DRAW_ROUNDS = 8
QUARANTINE_KEPT = 100
QUARANTINE_HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of the trajectories of one `add`; added + duplicates is their number."""

    added: int
    duplicates: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row of a batch."""

    id: str
    trajectory: Trajectory
    fresh: bool
    """Drawn because it had just arrived, once per arrival; else by priority."""
    policy_version: int
    """Of this arrival; the record holds that of the string's newest one."""
    behaviour: str
    """Likewise."""


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Totals since `clear`, and what is in it now."""

    size: int
    capacity: int
    inserted: int
    """New ids."""
    duplicates: int
    evicted: int
    drawn: int
    """Draws made, those of records that turned out unreadable included."""
    updated: int
    """Priorities set."""
    quarantined: int
    fresh_waiting: int
    """Arrivals that no draw has taken as fresh yet."""
    last_insert_age_s: int | None
    """Seconds since the last add, by the server's clock; None before the first."""

    @property
    def draws_per_insert(self) -> float:
        """What `max_samples_per_insert` limits; 0 before the first add."""
        return self.drawn / max(self.inserted + self.duplicates, 1)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that could not be read, or was set aside."""

    id: str
    reason: str
    head: bytes
    """Its first bytes."""


class ReplayBuffer:
    """The buffer called `name`. Each process builds its own on its own client; the state is in Redis."""

    def __init__(self, client: redis.Redis, config: BufferConfig, name: str, seed: int | None = None) -> None:
        """`seed` fixes when new trajectories come up first; None takes the machine's entropy."""
        self._client = client
        self._config = config
        self._keys = Keys(name)
        self._scripts = Scripts(client)
        self._rng = np.random.default_rng(seed)

    @store_errors("adding trajectories")
    def add(self, trajectories: Sequence[Trajectory]) -> AddResult:
        """Store scored trajectories; evict those added longest ago when full.

        One that is there already (same `content_id`) is replaced by the newer record and keeps its weight; each one,
        repeats included, also becomes a fresh row. Raise RecordError, and store nothing, if one is unscored or
        malformed.
        """
        rows: list[tuple[str, bytes, str]] = []
        for trajectory in trajectories:
            if not trajectory.is_scored:
                raise RecordError(f"a trajectory of prompt {trajectory.prompt_id!r} is unscored; score it before add")
            id_ = content_id(trajectory)
            rows.append((id_, encode(trajectory), f"{id_} {trajectory.policy_version} {trajectory.behaviour}"))
        total = np.zeros(3, dtype=np.int64)
        for start in range(0, len(rows), ADD_CHUNK):
            total += self._add_chunk(rows[start : start + ADD_CHUNK])
        return AddResult(*total.tolist())

    @store_errors("drawing trajectories")
    def draw(self, fresh: int, replay: int, rng: np.random.Generator) -> list[Drawn]:
        """`fresh` + `replay` rows: at most `fresh` that have just arrived, oldest first, the rest by weight.

        Draws by weight are with replacement. Fewer rows only if the buffer is empty. Records that can't be read go to
        quarantine and are replaced; StoreError if that never ends.
        """
        wanted, rows = fresh + replay, list[Drawn]()
        for _ in range(DRAW_ROUNDS):
            picked = self._pick(fresh, wanted - len(rows), rng)
            rows += self._fetch(picked)
            if len(rows) == wanted or not picked:
                return rows
            fresh = 0  # what could not be read is made up for by weight
        raise StoreError(
            f"{DRAW_ROUNDS} rounds found {len(rows)} of {wanted} readable records; look at quarantine(), and clear() "
            "the buffer if another release wrote it"
        )

    @store_errors("setting priorities")
    def reprioritize(self, ids: Sequence[str], priorities: Sequence[float]) -> int:
        """Set priorities (absolute, >= 0, no unit); return how many ids were still there.

        Raise ValueError for a priority that is negative or not finite.
        """
        args: list[str | float] = []
        for id_, priority in zip(ids, priorities, strict=True):
            if not (math.isfinite(priority) and priority >= 0):
                raise ValueError(
                    f"priority of {id_} = {priority} must be finite and >= 0; mend the residual it comes from"
                )
            args += [id_, self._weight(float(priority))]
        if not args:
            return 0
        keys = self._keys
        return int(self._scripts.reprioritize([keys.weight, keys.clock, keys.counters], args))

    @store_errors("reading the buffer's statistics")
    def stats(self) -> BufferStats:
        """Counters and sizes, O(1)."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.counters)
            pipe.zcard(self._keys.order)
            pipe.llen(self._keys.fresh)
            pipe.time()
            counters, size, fresh_waiting, (now_s, _) = pipe.execute()
        last_add_s = counters.get(b"last_add_s")
        return BufferStats(
            size=size,
            capacity=self._config.capacity,
            fresh_waiting=fresh_waiting,
            last_insert_age_s=None if last_add_s is None else max(0, now_s - int(last_add_s)),
            **{
                name: int(counters.get(name.encode(), 0))
                for name in ("inserted", "duplicates", "evicted", "drawn", "updated", "quarantined")
            },
        )

    @store_errors("reading the quarantine")
    def quarantine(self, limit: int = QUARANTINE_KEPT) -> list[Quarantined]:
        """The newest `limit` unreadable records; the last QUARANTINE_KEPT are kept."""
        notes = self._client.lrange(self._keys.quarantine, 0, limit - 1)
        return [Quarantined(*msgpack.unpackb(note)) for note in notes]

    @store_errors("setting trajectories aside")
    def set_aside(self, ids: Sequence[str], reason: str) -> int:
        """Move records that can be read but do harm to quarantine; return how many were still there."""
        ids = list(dict.fromkeys(ids))
        records = cast(list[bytes | None], self._client.hmget(self._keys.payload, ids)) if ids else []
        return sum(self._quarantine(id_, record, reason) for id_, record in zip(ids, records, strict=True) if record)

    @store_errors("noting the newest version")
    def note_version(self, number: int) -> None:
        """Remember the newest adapter version published, for a learner that is started again."""
        self._client.hset(self._keys.counters, "version", str(number))

    @store_errors("reading the newest version")
    def newest_version(self) -> int:
        """What `note_version` was told last; -1 before."""
        number = self._client.hget(self._keys.counters, "version")
        return -1 if number is None else int(cast(bytes, number))

    @store_errors("clearing the buffer")
    def clear(self) -> None:
        """Forget everything, counters and quarantine included."""
        self._client.delete(*self._keys.stored())

    def _add_chunk(self, rows: list[tuple[str, bytes, str]]) -> list[int]:
        """Added, duplicates, evicted of one script call."""
        keys = self._keys
        delays = self._rng.exponential(size=len(rows)).tolist()
        args: list[str | bytes | float] = [self._config.capacity, self._config.fresh_capacity, ANSWER_LIFETIME_S]
        for (id_, record, arrival), delay in zip(rows, delays, strict=True):
            args += [id_, record, delay, arrival]
        answer = self._scripts.add(
            [
                *(keys.payload, keys.weight, keys.clock, keys.order, keys.fresh, keys.counters),
                keys.answer(secrets.token_hex(8)),
            ],
            args,
        )
        return [int(number) for number in answer.split()]

    def _pick(self, fresh: int, wanted: int, rng: np.random.Generator) -> list[tuple[str, str | None]]:
        """Ids to draw, each with its arrival if it is fresh."""
        keys = self._keys
        arrivals, other_ids = self._scripts.draw(
            [keys.payload, keys.weight, keys.clock, keys.fresh, keys.counters],
            [fresh, wanted, *rng.exponential(size=wanted).tolist()],
        )
        fresh_rows: list[tuple[str, str | None]] = [(a.split(" ", 1)[0], a) for a in map(_text, arrivals)]
        return fresh_rows + [(_text(id_), None) for id_ in other_ids]

    def _fetch(self, picked: list[tuple[str, str | None]]) -> list[Drawn]:
        """The rows of `picked` that are still there and can be read."""
        ids = list(dict.fromkeys(id_ for id_, _ in picked))
        if not ids:
            return []
        found: dict[str, Trajectory] = {}
        records = cast(list[bytes | None], self._client.hmget(self._keys.payload, ids))
        for id_, record in zip(ids, records, strict=True):
            if record is None:
                continue  # evicted since it was picked
            try:
                found[id_] = decode(record)
            except RecordError as error:
                self._quarantine(id_, record, str(error))
        return [_row(id_, found[id_], arrival) for id_, arrival in picked if id_ in found]

    def _quarantine(self, id_: str, record: bytes, reason: str) -> int:
        keys = self._keys
        note = msgpack.packb([id_, reason, record[:QUARANTINE_HEAD_BYTES]])
        answer = self._scripts.quarantine(
            [keys.payload, keys.weight, keys.clock, keys.order, keys.quarantine, keys.counters],
            [id_, record, note, QUARANTINE_KEPT],
        )
        return int(answer)

    def _weight(self, priority: float) -> float:
        """priority ** exponent within WEIGHT_RANGE; computed in logs, so that no exponent overflows."""
        if self._config.priority_exponent == 0.0:
            return 1.0
        lowest, highest = (math.log(bound) for bound in WEIGHT_RANGE)
        log_weight = self._config.priority_exponent * math.log(priority) if priority > 0 else lowest
        return math.exp(min(max(log_weight, lowest), highest))


def _row(id_: str, trajectory: Trajectory, arrival: str | None) -> Drawn:
    if arrival is None:
        return Drawn(id_, trajectory, False, trajectory.policy_version, trajectory.behaviour)
    _, version, behaviour = arrival.split(" ", 2)
    return Drawn(id_, trajectory, True, int(version), behaviour)


def _text(id_: bytes) -> str:
    return id_.decode(errors="replace")
