"""The quarantine of a buffer: the newest entries, each with its reason and the first bytes of the record."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import msgpack

from buffer.store.item_store import Handle, ItemStore

ENTRIES_KEPT = 100
HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that could not be read, or a trajectory that was quarantined or rejected."""

    id: str
    """Its content id."""
    reason: str
    head: bytes
    """Its first bytes."""

    @classmethod
    def from_record(cls, content_id: str, reason: str, record: bytes) -> Self:
        """An entry with the first HEAD_BYTES of `record`."""
        return cls(content_id, reason, record[:HEAD_BYTES])


class Quarantine:
    """The last ENTRIES_KEPT entries of one store."""

    def __init__(self, store: ItemStore) -> None:
        self._store = store

    def newest(self, limit: int) -> list[Quarantined]:
        """At most `limit` entries, the newest first."""
        entries: Any = self._store.client.lrange(self._store.keys.quarantine, 0, limit - 1)
        return [Quarantined(*msgpack.unpackb(entry)) for entry in entries]

    def move(self, handles: Sequence[Handle], entries: Sequence[Quarantined]) -> int:
        """Remove items from the store and add their entries; return the number that were still in the store."""
        return self._store.remove(handles, "quarantined", [_pack(entry) for entry in entries], ENTRIES_KEPT)

    def add_refused(self, entries: Sequence[Quarantined], reason: str) -> None:
        """Add entries of trajectories that never entered the store, counted as refused for `reason`."""
        keys = self._store.keys
        with self._store.client.pipeline(transaction=True) as pipe:
            pipe.lpush(keys.quarantine, *map(_pack, entries))
            pipe.ltrim(keys.quarantine, 0, ENTRIES_KEPT - 1)
            pipe.hincrby(keys.counters, f"refused:{reason}", len(entries))
            pipe.hincrby(keys.counters, "declined", len(entries))
            pipe.execute()


def _pack(entry: Quarantined) -> bytes:
    return bytes(msgpack.packb(astuple(entry)))
