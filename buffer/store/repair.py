"""Rebuild every index of a store from its items, where check.py reports problems.

An item stays, with its handle, if it has a record and its digest is in one slot only. A record without an item is
removed and returned: only its writer knows its fields.
"""

from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from buffer.store.binary_layout import ENTRY, GROUP_BYTES, INDEX_STATE, LEVEL_COUNT, NONE, PLACES_END, pack_levels
from buffer.store.check import Snapshot
from buffer.store.keys import Keys

CHUNK = 1000


def repair(client: redis.Redis, keys: Keys, snapshot: Snapshot, ranked_by: str) -> list[bytes]:
    """Rewrite everything but the records, in one transaction; return the records that had no item.

    Raise redis.WatchError when the store was used since the snapshot: take another one.
    """
    items = snapshot.items.copy()
    live = _kept(snapshot)
    gone = np.setdiff1d(np.arange(len(items)), live)
    items["level"][gone] = 0
    arrivals = int(snapshot.counters.get("arrivals", 0))
    live = live[np.argsort((items["arrival"][live].astype(np.int64) - arrivals - 1) % PLACES_END, kind="stable")]
    items["older"][live] = np.append(NONE, live)[: len(live)]
    items["newer"][live] = np.append(live, NONE)[1:]
    items["newer"][gone] = np.append(gone, NONE)[1:]
    with client.pipeline(transaction=True) as pipe:
        pipe.watch(keys.counters)  # type: ignore[no-untyped-call]
        if pipe.hgetall(keys.counters) != {name.encode(): value for name, value in snapshot.counters.items()}:
            raise redis.WatchError("the store has been used since the snapshot")
        orphans = list(snapshot.record_digests - set(items["digest"][live].tolist()))
        records: Any = pipe.hmget(keys.payload, orphans) if orphans else []
        pipe.multi()
        if orphans:
            pipe.hdel(keys.payload, *orphans)
        _write_levels(pipe, keys, items, live)
        _write_groups(pipe, keys, snapshot, items, live)
        _write_slots(pipe, keys, items, live, ranked_by)
        pipe.set(keys.items, items.tobytes())
        pipe.hset(keys.counters, mapping=_counters(items, live, gone))
        pipe.execute()
    return [record for record in records if record is not None]


def _kept(snapshot: Snapshot) -> NDArray[np.intp]:
    """Slots whose item has a record, one per digest: the one in the slot table where there is one."""
    by_digest: dict[bytes, int] = {}
    for slot, digest in zip(snapshot.live.tolist(), snapshot.items["digest"][snapshot.live].tolist(), strict=True):
        if digest in snapshot.record_digests and (digest not in by_digest or snapshot.slots.get(digest) == slot):
            by_digest[digest] = slot
    return np.array(sorted(by_digest.values()), dtype=np.intp)


def _write_levels(pipe: Any, keys: Keys, items: NDArray[Any], live: NDArray[np.intp]) -> None:
    states = np.zeros(LEVEL_COUNT, dtype=INDEX_STATE)
    for level in range(1, LEVEL_COUNT):
        pipe.delete(keys.level(level))
        slots = live[items["level"][live] == level]
        if not len(slots):
            continue
        items["level_at"][slots] = np.arange(len(slots))
        states["count"][level] = len(slots)
        entries = np.zeros(len(slots), dtype=ENTRY)
        entries["slot"] = slots
        for name in ("generation", "version", "level", "digest"):
            entries[name] = items[name][slots]
        pipe.set(keys.level(level), entries.tobytes())
    pipe.set(keys.levels, pack_levels(states))


def _write_groups(pipe: Any, keys: Keys, snapshot: Snapshot, items: NDArray[Any], live: NDArray[np.intp]) -> None:
    for group in snapshot.groups:
        pipe.delete(keys.group(group))
    pipe.delete(keys.groups)
    _, numbers, counts = np.unique(
        items["group"][live].view(f"S{GROUP_BYTES}"), return_inverse=True, return_counts=True
    )
    by_group = live[
        np.argsort(numbers, kind="stable")
    ]  # once: a search for each group would take a minute at 10^6 items
    for slots in np.split(by_group, np.cumsum(counts)[:-1]) if len(live) else ():
        items["group_at"][slots] = np.arange(len(slots))
        group = items["group"][slots[0]].tobytes()
        pipe.set(keys.group(group), slots.astype("<u4").tobytes())
        pipe.hset(keys.groups, group, np.array([(len(slots), 0, 0)], dtype=INDEX_STATE).tobytes())


def _write_slots(pipe: Any, keys: Keys, items: NDArray[Any], live: NDArray[np.intp], ranked_by: str) -> None:
    pipe.delete(keys.slots, keys.rewards, keys.rank)
    for start in range(0, len(live), CHUNK):
        slots = live[start : start + CHUNK]
        pairs = zip(
            items["digest"][slots].tolist(), (slot.to_bytes(4, "little") for slot in slots.tolist()), strict=True
        )
        pipe.hset(keys.slots, items=[part for pair in pairs for part in pair])
        if ranked_by != "none":
            scores = items["log_reward" if ranked_by == "reward" else "draws"][slots].tolist()
            pipe.zadd(keys.rank, dict(zip(slots.tolist(), scores, strict=True)))
    bins, counts = np.unique(items["bin"][live], return_counts=True)
    for name, count in zip(bins.tolist(), counts.tolist(), strict=True):
        pipe.hset(keys.rewards, str(name), count)


def _counters(items: NDArray[Any], live: NDArray[np.intp], gone: NDArray[np.intp]) -> dict[Any, Any]:
    return {
        "size": len(live),
        "oldest": int(live[0]) if len(live) else NONE,
        "newest": int(live[-1]) if len(live) else NONE,
        "free": int(gone[0]) if len(gone) else NONE,
        "arrived_sum": int(items["arrived_at"][live].astype(np.int64).sum()),
    }
