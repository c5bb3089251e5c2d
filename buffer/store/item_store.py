"""A bounded store of byte strings with priorities, in Redis: no repeats, exact weighted draws, no call applied twice.

It does not know trajectories (replay.py does): an item is a record under the digest of what makes it unique, with a
group, a version, a reward and a weight. Every operation is one Lua script, hence atomic. A call repeated after a lost
reply gets the reply of the first one; a draw that removed nothing may run twice. A digest's record is the one sent
last, even where that arrival was refused as too stale: the content is the same.

An item's handle is (slot, generation): slots are reused, generations are not, so a late call on an item that has left
never reaches its successor in the slot.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import redis
from numpy.typing import NDArray

from buffer.errors import StoreError
from buffer.store.binary_layout import ENTRY, reward_bin
from buffer.store.check import snapshot
from buffer.store.keys import Keys
from buffer.store.repair import repair
from buffer.store.scripts import Scripts
from buffer.store.settings import LAYOUT, StoreSettings

ADD_CHUNK = 256
"""Items per call of add: a script blocks the server, for some 5 µs per item."""
MAX_TAGS = 255
MAX_ROOM = 4096
"""Items evicted at once, at most, to make room for others at the server's maxmemory."""

Sampler: TypeAlias = Literal["weighted", "uniform", "oldest", "newest", "highest_reward"]

_HEAD = struct.Struct("<16s8sIfhHB")
_HANDLE = struct.Struct("<II")
_UPDATE = struct.Struct("<IIH")


class Handle(NamedTuple):
    """Identifies one item for the life of the store."""

    slot: int
    generation: int


class NewItem(NamedTuple):
    """An item to be put into the store."""

    digest: bytes
    """16 bytes of what makes the item unique."""
    record: bytes
    group: bytes
    """8 bytes."""
    version: int
    log_reward: float
    """nats"""
    level: int
    """Level of its draw weight (priority_levels.py); 0: the highest in use."""
    tag: str
    """Returned with the fresh draw of this arrival."""


class PutResult(NamedTuple):
    """Counts of one `put`; all but `evicted` add up to the number of its items."""

    added: int
    duplicates: int
    evicted: int
    stale: int
    over_quota: int


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """Keeps samples per insert within a band, by blocking the side that is ahead (cf. Reverb's SampleToInsertRatio).

    Draws that can't happen, because items left undrawn or can't be drawn, are waived: the two sides never both wait.
    """

    samples_per_insert: float
    """0: no limit."""
    band: float
    """Samples that either side may be ahead."""
    needed: int
    """Arrivals before the first draw."""

    @property
    def inserts_ahead(self) -> float:
        """Largest samples_per_insert * (arrivals + refused) - draws - waived draws that lets an insert in."""
        return self.samples_per_insert * self.needed + self.band

    @property
    def draws_ahead(self) -> float:
        """Largest draws + waived draws - samples_per_insert * (arrivals + refused) that lets a draw through."""
        return self.band - self.samples_per_insert * self.needed


NO_RATE_LIMIT = RateLimiter(0.0, 0.0, 1)


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """The composition of one draw."""

    rows: int
    fresh: int = 0
    """Maximum number of rows that have just arrived, the one waiting longest first."""
    fresh_window: int | None = None
    """Only this many newest arrivals can be fresh; those before them are only replayed. None: no limit."""
    fresh_needed: int = 0
    """Nothing is drawn before this many arrivals wait to be fresh, and then no other row. 0: others fill up."""
    newest_version: int = 0
    """Maximum number of rows drawn uniformly from the arrivals of the newest version."""
    sampler: Sampler = "weighted"
    """Draws the other rows."""
    replace: bool = True
    """With replacement: an item may appear twice in this call."""
    rows_per_group: int = 1
    """Rows that come from one group: the group by weight, different items of it uniformly."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a draw; B rows."""

    entries: NDArray[Any]
    """[B] of ENTRY: slot, generation, version, level, digest."""
    fresh: int
    """Number of rows that had just arrived; they come first."""
    newest_version: int
    """Number of rows of the newest version; they come next."""
    versions: NDArray[np.uint32]
    """[fresh] versions of these arrivals; their items may have arrived again since."""
    tags: list[str]
    """[fresh]"""
    records: list[bytes | None]
    """[B] bytes of each record; None where it left between draw and fetch."""


class ItemStore:
    """The store called `name`. One object is for one process; its threads may share it."""

    def __init__(self, client: redis.Redis, name: str, settings: StoreSettings) -> None:
        self.client = client
        self.name = name
        self.keys = Keys(name)
        self.settings = settings
        self._settings_json = settings.model_dump_json()
        self._scripts = Scripts(client, self.keys, self._settings_json)

    def put(self, items: Sequence[NewItem], rate_limiter: RateLimiter = NO_RATE_LIMIT) -> PutResult | None:
        """Insert at most `chunk` items; return None and insert nothing while draws are too far behind."""
        tags = list(dict.fromkeys(item.tag for item in items))
        number = {tag: i for i, tag in enumerate(tags)}
        if len(tags) > MAX_TAGS or len(items) > self.chunk:
            raise ValueError(
                f"{len(items)} items with {len(tags)} tags exceed the limits of one call, {self.chunk} items and "
                f"{MAX_TAGS} tags; split them"
            )
        heads = b"".join(
            _HEAD.pack(i.digest, i.group, i.version, i.log_reward, reward_bin(i.log_reward), i.level, number[i.tag])
            for i in items
        )
        records = [part for item in items for part in (item.digest, item.record)]
        room = len(items)
        while True:
            try:
                return self._put(records, heads, tags, self.settings.capacity, rate_limiter)
            except redis.OutOfMemoryError:
                if room > MAX_ROOM or not self._make_room(room):
                    raise
                room *= 2

    @property
    def chunk(self) -> int:
        """Maximum number of items of one `put`."""
        return min(ADD_CHUNK, self.settings.capacity)

    def draw(self, request: DrawRequest, seed: int, rate_limiter: RateLimiter = NO_RATE_LIMIT) -> Rows | None:
        """Rows with their records; fewer where the request can't be met, None while there is nothing to draw yet."""
        settings, capacity = self.settings, self.settings.capacity
        reply = self._scripts.draw(
            seed,
            [
                *(request.rows, request.fresh, request.newest_version, request.sampler),
                *(int(request.replace), request.rows_per_group),
                *(settings.max_times_sampled, settings.max_staleness, settings.ranked_by),
                *(rate_limiter.samples_per_insert, rate_limiter.draws_ahead, rate_limiter.needed),
                *(capacity, min(request.fresh_window or capacity, capacity), request.fresh_needed),
            ],
        )
        if reply is None:
            return None
        packed, n_fresh, n_newest, versions, tags, evicted = reply
        entries = np.frombuffer(packed, ENTRY)
        evicted_records = dict(zip(evicted[::2], evicted[1::2], strict=True))
        records, names = self._fetch(entries["digest"].tolist(), evicted_records), [tag.decode() for tag in tags]
        return Rows(entries, n_fresh, n_newest, np.frombuffer(versions, "<u4"), names, records)

    def reprioritize(self, handles: Sequence[Handle], levels: Sequence[int]) -> int:
        """Set the levels of items; return the number of items that were still in the store."""
        updates = (_UPDATE.pack(*handle, level) for handle, level in zip(handles, levels, strict=True))
        return self._scripts.reprioritize(b"".join(updates))

    def remove(self, handles: Sequence[Handle], counter: str, notes: Sequence[bytes] = (), notes_kept: int = 0) -> int:
        """Take items out, counted as `counter`; return the number removed. `notes` go to the quarantine."""
        pairs = zip(handles, notes or [b""] * len(handles), strict=True)
        entries = [part for handle, note in pairs for part in (_HANDLE.pack(*handle), note)]
        ranked = int(self.settings.ranked_by != "none")
        return self._scripts.remove([ranked, counter, notes_kept, *entries])

    def count_refused(self, reasons: Mapping[str, int]) -> None:
        """Count items that were refused before they reached the store, by reason."""
        with self.client.pipeline(transaction=False) as pipe:
            for reason, number in reasons.items():
                if number:
                    pipe.hincrby(self.keys.counters, f"refused:{reason}", number)
                    pipe.hincrby(self.keys.counters, "declined", number)
            pipe.execute()

    def records(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """The records of these digests; None for a digest that has none."""
        if not digests:
            return []
        records: Any = self.client.hmget(self.keys.payload, list(digests))
        return list(records)

    def clear(self) -> None:
        """Delete everything; the next call of every other client raises StoreError."""
        self._scripts.clear()

    def publish(self, lease: str, version: int) -> bool:
        """Note a version; False, and nothing is changed, where the lease is another's."""
        return self._scripts.publish(lease, version)

    def load_scripts(self) -> bool:
        """Load the scripts that the server lacks, for clients that may load none; True if it lacked one."""
        return self._scripts.load()

    def adopt(self) -> None:
        """Put the existing store under these settings, whatever its old ones; no other process may use it meanwhile.

        Where they differ, arrivals that wait as fresh are dropped: their ring is as long as the store. StoreError for
        a store that another release wrote in another layout.
        """
        old_settings: Any = self.client.hget(self.keys.counters, "settings")
        if old_settings is not None and old_settings.decode() == self._settings_json:
            return
        if old_settings is None and not self.client.hlen(self.keys.payload):
            return  # it is empty
        layout = json.loads(old_settings).get("layout", 1) if old_settings else "unknown"
        if layout != LAYOUT:
            raise StoreError(
                f"the buffer's layout in Redis is {layout}, and this release reads {LAYOUT}: another release of "
                "Tributary wrote it. Resume the run with that release, or start it over with --replace, which empties "
                "the buffer."
            )
        repair(self.client, self.keys, snapshot(self.client, self.keys), self.settings.ranked_by)
        arrivals: Any = self.client.hget(self.keys.counters, "arrivals") or 0
        with self.client.pipeline(transaction=True) as pipe:
            pipe.delete(self.keys.arrivals)
            pipe.hset(
                self.keys.counters,
                mapping={"settings": self._settings_json, "fresh": int(arrivals), "latest": int(arrivals)},
            )
            pipe.execute()

    def _put(
        self, records: list[bytes], heads: bytes, tags: list[str], capacity: int, rate_limiter: RateLimiter
    ) -> PutResult | None:
        settings = self.settings
        reply = self._scripts.add(
            records,
            [
                *(capacity, settings.per_prompt_quota, settings.evict, settings.max_staleness),
                *(settings.capacity, settings.ranked_by),
                *(rate_limiter.samples_per_insert, rate_limiter.inserts_ahead, rate_limiter.needed),
                *(heads, *tags),
            ],
        )
        return None if reply is None else PutResult(*reply)

    def _make_room(self, number: int) -> bool:
        """At maxmemory, evict items of a store that has been full. False: it never was full, or is empty."""
        counters: Any = self.client.hmget(self.keys.counters, ["size", "evicted"])
        size, evicted = (int(value or 0) for value in counters)
        if size == 0 or (size < self.settings.capacity and not evicted):
            return False
        return self._put([], b"", [], max(size - number, 0), NO_RATE_LIMIT) is not None

    def _fetch(self, digests: list[bytes], evicted_records: dict[bytes, bytes]) -> list[bytes | None]:
        """The records of these digests; the reply of the draw holds those that it evicted."""
        if not evicted_records:
            return self.records(digests)
        fetched = iter(self.records([digest for digest in digests if digest not in evicted_records]))
        return [evicted_records[digest] if digest in evicted_records else next(fetched) for digest in digests]
