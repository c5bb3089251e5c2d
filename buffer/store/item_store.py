"""A bounded store of byte strings with priorities, in Redis: no repeats, exact weighted draws, nothing done twice.

It knows nothing of trajectories (replay.py does): an item is a record under the digest of what makes it unique, with a
group, a version, a reward and a weight. Every operation is one Lua script, hence atomic. What is sent again after a
lost reply finds its own answer; a draw that took nothing away may be made twice. A digest's record is the one sent
last, also where that arrival was refused as too stale: the content is the same.

An item's handle is (slot, generation): slots are used again, generations are not, so that a late call on an item that
has left never hits the one that came after it.
"""

import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import msgpack
import numpy as np
import redis
from numpy.typing import NDArray

from buffer.errors import StoreError
from buffer.store.binary_layout import ENTRY, reward_bin
from buffer.store.check import snapshot
from buffer.store.keys import Keys
from buffer.store.repair import repair
from buffer.store.scripts import Scripts
from buffer.store.settings import StoreSettings

ADD_CHUNK = 256
"""Items per call of add: a script blocks the server, some 5 µs each."""
MAX_TAGS = 255
MOST_ROOM = 4096
"""Items that leave at once, at the most, to let others in at the server's maxmemory."""

Sampler: TypeAlias = Literal["weighted", "uniform", "oldest", "newest", "highest_reward"]

_HEAD = struct.Struct("<16s8sIfhHB")
_HANDLE = struct.Struct("<II")
_UPDATE = struct.Struct("<IIH")


class Handle(NamedTuple):
    """Names one item for good."""

    slot: int
    generation: int


class NewItem(NamedTuple):
    """What `put` takes."""

    digest: bytes
    """16 bytes of what makes the item unique."""
    record: bytes
    group: bytes
    """8 bytes."""
    version: int
    log_reward: float
    """nats"""
    level: int
    """Of levels.py; 0: the highest in use."""
    tag: str
    """Comes back with the fresh draw of this arrival."""


class PutResult(NamedTuple):
    """What became of the items of one `put`; all but `evicted` add up to their number."""

    added: int
    duplicates: int
    evicted: int
    stale: int
    over_quota: int


@dataclass(frozen=True, slots=True)
class RateLimiter:
    """Samples per insert held within a band: neither side gets further ahead (cf. Reverb's SampleToInsertRatio)."""

    samples_per_insert: float
    """0: no limit."""
    band: float
    """How far either side may be ahead, in samples."""
    needed: int
    """Arrivals before the first draw."""

    @property
    def inserts_ahead(self) -> float:
        """Largest samples_per_insert * arrivals - draws that lets an insert in."""
        return self.samples_per_insert * self.needed + self.band

    @property
    def draws_ahead(self) -> float:
        """Largest draws - samples_per_insert * arrivals that lets a draw through."""
        return self.band - self.samples_per_insert * self.needed


NO_RATE_LIMIT = RateLimiter(0.0, 0.0, 1)


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """Which rows a draw wants."""

    rows: int
    fresh: int = 0
    """At most so many that have just arrived, the one waiting longest first."""
    newest_version: int = 0
    """At most so many arrivals of the newest version, all alike."""
    way: Sampler = "weighted"
    """How the others are drawn."""
    replace: bool = True
    """Whether an item can come twice in this call."""
    together: int = 1
    """Rows that come from one group: the group by weight, its items all alike and different."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a draw gave; B rows."""

    entries: NDArray[Any]
    """[B] of ENTRY: slot, generation, version, level, digest."""
    fresh: int
    """The first so many had just arrived."""
    newest_version: int
    """The next so many are of the newest version."""
    versions: NDArray[np.uint32]
    """[fresh] of these arrivals; their items may have come again since."""
    tags: list[str]
    """[fresh]"""
    records: list[bytes | None]
    """[B] each record's bytes; None where it left between draw and fetch."""


class ItemStore:
    """The store called `name`. One object is for one process; its threads may share it."""

    def __init__(self, client: redis.Redis, name: str, settings: StoreSettings) -> None:
        self.client = client
        self.keys = Keys(name)
        self.settings = settings
        self._settings_json = settings.model_dump_json()
        self._scripts = Scripts(client)
        self._epoch = ""
        self._adds, self._draws = (_Answers(self.keys, kind) for kind in ("add", "draw"))

    def put(self, items: Sequence[NewItem], rate_limiter: RateLimiter = NO_RATE_LIMIT) -> PutResult | None:
        """Let at most `chunk` items in; None, and nothing done, while draws are too far behind."""
        tags = list(dict.fromkeys(item.tag for item in items))
        number = {tag: i for i, tag in enumerate(tags)}
        if len(tags) > MAX_TAGS or len(items) > self.chunk:
            raise ValueError(
                f"{len(items)} items with {len(tags)} tags, at most {self.chunk} and {MAX_TAGS} go at once"
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
                if room > MOST_ROOM or not self._make_room(room):
                    raise
                room *= 2

    @property
    def chunk(self) -> int:
        """Largest number of items of one `put`."""
        return min(ADD_CHUNK, self.settings.capacity)

    def draw(self, request: DrawRequest, seed: int, rate_limiter: RateLimiter = NO_RATE_LIMIT) -> Rows | None:
        """Rows with their records; fewer where the request can't be met, None while there is nothing to draw."""
        rules = self.settings
        with self._draws.call() as (key, nonce):
            answer = self._ask(
                self._scripts.draw,
                [self.keys.payload, key],
                [
                    *(nonce, self._epoch, self._settings_json, seed),
                    *(request.rows, request.fresh, request.newest_version, request.way),
                    *(int(request.replace), request.together),
                    *(rules.max_times_sampled, rules.max_staleness, rules.ranked_by),
                    *(rate_limiter.samples_per_insert, rate_limiter.draws_ahead, rate_limiter.needed),
                ],
            )
        if answer is None:
            return None
        packed, n_fresh, n_newest, versions, tags, along = answer
        entries = np.frombuffer(packed, ENTRY)
        records = self._fetch(entries["digest"].tolist(), dict(zip(along[::2], along[1::2], strict=True)))
        versions = np.frombuffer(versions, "<u4")
        return Rows(entries, n_fresh, n_newest, versions, [tag.decode() for tag in tags], records)

    def reprioritize(self, handles: Sequence[Handle], levels: Sequence[int]) -> int:
        """Give items other levels; return how many were still there."""
        batch = b"".join(_UPDATE.pack(*handle, level) for handle, level in zip(handles, levels, strict=True))
        return self._found(self._scripts.reprioritize, [batch])

    def remove(self, handles: Sequence[Handle], counter: str, notes: Sequence[bytes] = (), notes_kept: int = 0) -> int:
        """Take items out, counted as `counter`; return how many were there. `notes` go to the quarantine."""
        pairs = zip(handles, notes or [b""] * len(handles), strict=True)
        entries = [part for handle, note in pairs for part in (_HANDLE.pack(*handle), note)]
        ranked = int(self.settings.ranked_by != "none")
        return self._found(self._scripts.remove, [ranked, counter, notes_kept, *entries])

    def count_refused(self, reasons: Mapping[str, int]) -> None:
        """Count items that never got here, by reason."""
        with self.client.pipeline(transaction=False) as pipe:
            for reason, number in reasons.items():
                if number:
                    pipe.hincrby(self.keys.counters, f"refused:{reason}", number)
            pipe.execute()

    def records(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """The records of these digests; None where there is none."""
        if not digests:
            return []
        found: Any = self.client.hmget(self.keys.payload, list(digests))
        return list(found)

    def clear(self) -> None:
        """Forget everything; clients of what was before are told so by their next call."""
        self._epoch = self._scripts.clear([self.keys.payload], [new_epoch(), self._settings_json]).decode()

    def adopt(self) -> None:
        """Take over what is there under these settings, whatever it was kept under before; nobody else may use it now.

        Where they differ, arrivals that wait as fresh are forgotten: their ring is as long as the store.
        """
        before: Any = self.client.hget(self.keys.counters, "settings")
        if before is None or before.decode() == self._settings_json:
            return
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
        rules = self.settings
        with self._adds.call() as (key, nonce):
            args: list[Any] = [
                *(nonce, self._epoch, new_epoch(), self._settings_json),
                *(capacity, rules.per_prompt_quota, rules.evict, rules.max_staleness),
                *(rules.fresh_capacity, rules.ranked_by, rate_limiter.samples_per_insert, rate_limiter.inserts_ahead),
                *(heads, *tags),
            ]
            answer = self._answer(self._records_and_script(records, [self.keys.payload, key], args))
        return None if answer is None else PutResult(*answer)

    def _make_room(self, number: int) -> bool:
        """At maxmemory, a store that has been full lets some items leave. False: it never was full, or is empty."""
        found: Any = self.client.hmget(self.keys.counters, ["size", "evicted"])
        size, evicted = (int(value or 0) for value in found)
        if size == 0 or (size < self.settings.capacity and not evicted):
            return False
        return self._put([], b"", [], max(size - number, 0), NO_RATE_LIMIT) is not None

    def _fetch(self, digests: list[bytes], along: dict[bytes, bytes]) -> list[bytes | None]:
        """The records of these digests; those `along` came with the draw."""
        if not along:
            return self.records(digests)
        fetched = iter(self.records([digest for digest in digests if digest not in along]))
        return [along[digest] if digest in along else next(fetched) for digest in digests]

    def _records_and_script(self, records: list[bytes], keys: list[str], args: list[Any]) -> bytes:
        """The records go into the hash by themselves, in one transaction with the script that admits their items."""
        script = self._scripts.add
        while True:
            with self.client.pipeline(transaction=True) as pipe:
                if records:
                    pipe.hset(self.keys.payload, items=records)
                pipe.evalsha(script.sha, len(keys), *keys, *args)
                try:
                    return bytes(pipe.execute()[-1])
                except redis.exceptions.ExecAbortError as error:
                    if "OOM" in str(error):  # found at EXEC, not when the command was queued
                        raise redis.OutOfMemoryError(str(error)) from error
                    raise
                except redis.exceptions.NoScriptError:  # a server that restarted; what was sent may be sent again
                    self.client.script_load(script.script)

    def _found(self, script: Any, args: list[Any]) -> int:
        answer = self._ask(script, [self.keys.payload], [self._epoch, self._settings_json, *args])
        return 0 if answer is None else int(answer[0])

    def _ask(self, script: Any, keys: list[str], args: list[Any]) -> list[Any] | None:
        """A script's answer after its status and epoch; None for 'wait'."""
        return self._answer(script(keys, args))

    def _answer(self, packed: bytes) -> list[Any] | None:
        status, *answer = cast(list[Any], msgpack.unpackb(packed, raw=True))
        if status == b"lost":
            raise StoreError(
                f"the buffer that this process used is gone (epoch {self._epoch}, now {answer[0].decode() or 'none'}): "
                "someone cleared it or emptied the server. Start the run anew, or resume it from its checkpoint."
            )
        if status == b"settings":
            raise StoreError(
                f"the buffer is kept under {answer[0].decode()}, this process wants {self._settings_json}: all who "
                "share a buffer need the same [buffer] settings. Use another name, or clear it."
            )
        if status == b"wait":
            return None
        self._epoch = answer[0].decode()
        return answer[1:]


class _Answers:
    """Where calls of one kind leave their answers: as many keys as there are calls under way at once."""

    def __init__(self, keys: Keys, kind: str) -> None:
        self._keys = keys
        self._kind = kind
        self._free: list[str] = []
        """Appending and popping are atomic."""

    @contextmanager
    def call(self) -> Iterator[tuple[str, str]]:
        """The key and the nonce of one call; the key is nobody else's until the call is over."""
        try:
            key = self._free.pop()
        except IndexError:
            key = self._keys.answer(f"{self._kind}:{secrets.token_hex(8)}")
        yield key, secrets.token_hex(8)
        self._free.append(key)  # not after an error: the call may still be on its way


def new_epoch() -> str:
    """A name that no other life of a store has."""
    return secrets.token_hex(8)
