"""Recount a store from one snapshot: every index must agree with the items.

The snapshot is one transaction, so the store may be in use; it blocks the server for about 0.2 s per million items.
`findings` lists the violated invariants; repair.py rebuilds every index from the items and their records.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray

from buffer.errors import StoreError
from buffer.store.binary_layout import ENTRY, ITEM, NONE, PLACES_END, unpack_levels
from buffer.store.keys import Keys

ATTEMPTS = 10
"""Reads of a store in use before `snapshot` gives up."""

_GROUP_STATE = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything in one store but the records themselves."""

    items: NDArray[Any]
    """[slots in use] of ITEM."""
    counters: dict[str, bytes]
    record_digests: frozenset[bytes]
    slots: dict[bytes, int]
    levels: dict[int, NDArray[np.uint32]]
    """Level -> slots in its array."""
    level_entries: dict[int, NDArray[Any]]
    """Level -> entries of its array, of ENTRY."""
    level_bases: dict[int, int]
    """Level -> place of its first entry."""
    groups: dict[bytes, NDArray[np.uint32]]
    group_bases: dict[bytes, int]
    bins: dict[int, int]
    ranked: frozenset[int] | None = None
    """Slots in the ranking; None without a ranking."""
    problems: tuple[str, ...] = field(default=())
    """Arrays that could not be read."""

    @property
    def live(self) -> NDArray[np.intp]:
        """Slots that hold an item."""
        return np.flatnonzero(self.items["level"])


class _Replies(NamedTuple):
    """A store as Redis holds it: one reply per key, all of one transaction."""

    counters: dict[bytes, bytes]
    items: bytes | None
    levels: bytes | None
    digests: list[bytes]
    slots: dict[bytes, bytes]
    groups: dict[bytes, bytes]
    bins: dict[bytes, bytes]
    rank: list[bytes]
    arrays: dict[int | bytes, bytes | None]
    """Level or group -> its array."""


def snapshot(client: redis.Redis, keys: Keys) -> Snapshot:
    """Read a store in one transaction, which reads the arrays of all levels and groups in use just before it.

    Repeated where another one has come into use in between; raise StoreError after ATTEMPTS.
    """
    replies = _read(client, keys)
    level_states = unpack_levels(replies.levels)
    problems = list[str]()
    level_arrays, level_entries, level_bases = {}, {}, {}
    for level in _used_levels(replies.levels):
        count, base, head = (int(value) for value in level_states[level])
        entries = _array(replies.arrays[level], count, base, head, ENTRY, f"level {level}", problems)
        level_arrays[level], level_entries[level] = entries["slot"], entries
        level_bases[level] = head
    group_arrays, group_bases = {}, {}
    for group, state in replies.groups.items():
        count, base, head = _GROUP_STATE.unpack(state)
        array = replies.arrays[group]
        group_arrays[group] = _array(array, count, base, head, np.dtype("<u4"), f"group {group.hex()}", problems)
        group_bases[group] = head
    used = int(replies.counters.get(b"used", 0))
    table = np.frombuffer((replies.items or b"").ljust(used * ITEM.itemsize, b"\0")[: used * ITEM.itemsize], ITEM)
    return Snapshot(
        items=table,
        counters={name.decode(): value for name, value in replies.counters.items()},
        record_digests=frozenset(replies.digests),
        slots={digest: int.from_bytes(slot, "little") for digest, slot in replies.slots.items()},
        levels=level_arrays,
        level_entries=level_entries,
        level_bases=level_bases,
        groups=group_arrays,
        group_bases=group_bases,
        bins={int(name): int(number) for name, number in replies.bins.items()},
        ranked=frozenset(map(int, replies.rank)) if replies.rank else None,
        problems=tuple(problems),
    )


def _read(client: redis.Redis, keys: Keys) -> _Replies:
    """All keys of a store but its records. Raise StoreError if levels or groups came into use in each of ATTEMPTS."""
    level_names, group_names = set[int](), set[bytes]()
    for _ in range(ATTEMPTS):
        in_use: Any = client.get(keys.levels), client.hkeys(keys.groups)
        level_names |= set(_used_levels(in_use[0]))
        group_names |= set(in_use[1])
        with client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.counters)
            pipe.get(keys.items)
            pipe.get(keys.levels)
            pipe.hkeys(keys.payload)
            pipe.hgetall(keys.slots)
            pipe.hgetall(keys.groups)
            pipe.hgetall(keys.rewards)
            pipe.zrange(keys.rank, 0, -1)
            for level in level_names:
                pipe.get(keys.level(level))
            for group in group_names:
                pipe.get(keys.group(group))
            counters, items, levels, digests, slots, groups, bins, rank, *arrays = pipe.execute()
        if level_names.issuperset(_used_levels(levels)) and group_names >= groups.keys():
            array_of: dict[int | bytes, bytes | None] = dict(zip([*level_names, *group_names], arrays, strict=True))
            return _Replies(counters, items, levels, digests, slots, groups, bins, rank, array_of)
    raise StoreError(
        f"the buffer got new prompts or new weights during each of {ATTEMPTS} attempts to read it: try again when "
        "fewer trajectories arrive, or when the run has ended"
    )


def _used_levels(levels: bytes | None) -> list[int]:
    used: list[int] = np.flatnonzero(unpack_levels(levels)["count"]).tolist()
    return used


def findings(snapshot: Snapshot) -> list[str]:
    """One sentence for each violated invariant; empty for a consistent store."""
    indexes: list[tuple[str, Any, Any]] = [
        ("level", snapshot.levels, snapshot.level_bases),
        ("group", snapshot.groups, snapshot.group_bases),
    ]
    wrong = [*snapshot.problems, *_record_findings(snapshot), *_entry_findings(snapshot), *_sum_findings(snapshot)]
    for kind, arrays, bases in indexes:
        wrong += _index_findings(snapshot, kind, arrays, bases)
    return [*wrong, *_chain_findings(snapshot)]


def _record_findings(snapshot: Snapshot) -> Iterator[str]:
    """Items, digests and records correspond one to one."""
    digests = snapshot.items["digest"][snapshot.live].tolist()
    if len(set(digests)) != len(digests):
        yield f"{len(digests) - len(set(digests))} digests are in two slots"
    if missing := set(digests) - snapshot.record_digests:
        yield f"{len(missing)} items have no record"
    if orphans := snapshot.record_digests - set(digests):
        yield f"{len(orphans)} records have no item"
    if snapshot.slots != dict(zip(digests, snapshot.live.tolist(), strict=True)):
        yield "digests and slots do not match the items"


def _entry_findings(snapshot: Snapshot) -> Iterator[str]:
    """The entries of a level agree with its items."""
    for level, entries in snapshot.level_entries.items():
        items = snapshot.items[entries["slot"][entries["slot"] < len(snapshot.items)]]
        names = ("generation", "version", "level", "digest")
        if len(items) < len(entries) or any(entries[name].tolist() != items[name].tolist() for name in names):
            yield f"the entries of level {level} do not match its items"


def _sum_findings(snapshot: Snapshot) -> Iterator[str]:
    """Sizes, sums and the histogram agree with the items."""
    live, items = snapshot.live, snapshot.items
    size = int(snapshot.counters.get("size", 0))
    if size != len(live):
        yield f"size is {size}, {len(live)} slots hold an item"
    bins, counts = np.unique(items["bin"][live], return_counts=True)
    if snapshot.bins != dict(zip(bins.tolist(), counts.tolist(), strict=True)):
        yield "the histogram of rewards does not match the items"
    arrived = int(items["arrived_at"][live].astype(np.int64).sum())
    counted = int(float(snapshot.counters.get("arrived_sum", 0)))
    if counted != arrived:
        yield f"the sum of arrival times is {counted}, must be {arrived}"
    if snapshot.ranked is not None and snapshot.ranked != set(live.tolist()):
        yield "the ranking does not hold exactly the items"


def _index_findings(snapshot: Snapshot, kind: str, arrays: Any, bases: Any) -> Iterator[str]:
    """Each item is in its index once, under its own name, at its own place."""
    names = snapshot.items[kind].tolist()
    seen = np.zeros(len(snapshot.items), dtype=bool)
    for name, array in arrays.items():
        label = f"{kind} {name.hex()}" if isinstance(name, bytes) else f"{kind} {name}"
        if len(array) and array.max(initial=0) >= len(snapshot.items):
            yield f"{label} names a slot that was never used"
            continue
        places = (bases[name] + np.arange(len(array))) % PLACES_END
        wrong = int(np.count_nonzero(snapshot.items[f"{kind}_at"][array] != places))
        wrong += sum(names[slot] != name for slot in array.tolist())
        wrong += int(np.count_nonzero(seen[array]))
        wrong += int(np.count_nonzero(snapshot.items["level"][array] == 0))
        seen[array] = True
        if wrong:
            yield f"{label} has {wrong} wrong places"
    if missing := int(np.count_nonzero(~seen[snapshot.live])):
        yield f"{missing} items are in no {kind}"


def _chain_findings(snapshot: Snapshot) -> Iterator[str]:
    """The chain by age links all items once, from the oldest to the newest and back."""
    oldest, newest = (int(snapshot.counters.get(name, NONE)) for name in ("oldest", "newest"))
    older, newer = snapshot.items["older"].tolist(), snapshot.items["newer"].tolist()
    slot, before, seen = oldest, NONE, set[int]()
    while slot != NONE and slot < len(older) and slot not in seen:
        if older[slot] != before:
            yield f"slot {slot} follows {before} in the chain by age, but its link back is {older[slot]}"
            return
        seen.add(slot)
        before, slot = slot, newer[slot]
    if slot != NONE or before != newest or seen != set(snapshot.live.tolist()):
        yield f"the chain by age holds {len(seen)} of {len(snapshot.live)} items"


def _array(
    data: bytes | None, count: int, base: int, head: int, dtype: np.dtype[Any], name: str, problems: list[str]
) -> NDArray[Any]:
    width = dtype.itemsize
    start = (head - base) % PLACES_END * width
    data = (data or b"")[start : start + count * width]
    if len(data) < count * width:
        problems.append(f"{name} has {len(data) // width} of {count} places")
    return np.frombuffer(data[: len(data) // width * width], dtype)
