"""Of strings that differ in a few tokens only, the buffer keeps the best.

A check before the store's own, in the adding process: a script would block the server while it compares. Two workers
that add at once do not see each other's strings, so both may let one of a pair of twins in. The twins then stay until a
better string near both takes their place, or they leave like others.
"""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from rapidfuzz.distance import Levenshtein

from buffer.codec import decode
from buffer.errors import RecordError
from buffer.store.binary_layout import ITEM, NONE, PLACES_END
from buffer.store.item_store import Handle, ItemStore, NewItem

CACHED_STRINGS = 10_000
"""Strings of which a process remembers the tokens; one costs 40 bytes a token."""

Tokens: TypeAlias = tuple[int, ...]
"""Of a response. rapidfuzz compares tuples of ints several times as fast as arrays."""

_GROUP_STATE = struct.Struct("<III")


@dataclass(slots=True)
class _Member:
    """A string of one prompt: kept already, or about to come in."""

    tokens: Tokens
    log_reward: float
    handle: Handle | None
    """None: not in the store yet."""
    arrivals: list[int]
    """Where the batch has it."""


class NearDuplicates:
    """Compares what comes with what is kept for the same prompt."""

    def __init__(self, store: ItemStore, distance: int) -> None:
        """`distance`: two strings are near with at most so many insertions, deletions and substitutions of tokens."""
        self._store = store
        self._distance = distance
        self._cache: OrderedDict[bytes, Tokens] = OrderedDict()

    def admit(self, items: Sequence[NewItem]) -> tuple[list[NewItem], int]:
        """The items that may come in, and how many stay out; takes the kept ones that they replace out of the store.

        In the order of the batch, each as if those before it were in already: one stays out if a string near it has no
        lower a reward, else it replaces all that are near. An exact repeat, and what the store will refuse as stale,
        goes through. Three round trips, one more to take items out; O(items of the prompts) comparisons for each item.
        """
        newest, members = self._kept(list(dict.fromkeys(item.group for item in items)))
        newest = max([newest, *(item.version for item in items if item.version != NONE)])
        max_staleness = self._store.settings.max_staleness
        out, leaving = set[int](), list[Handle]()
        for i, item in enumerate(items):
            if 0 <= max_staleness < newest - item.version:
                continue
            of_prompt = members[item.group]
            if same := of_prompt.get(item.digest):
                same.log_reward = item.log_reward
                same.arrivals.append(i)
                continue
            tokens = self._tokens(item.digest, item.record)
            near = [digest for digest, member in of_prompt.items() if self._are_near(tokens, member.tokens)]
            if any(of_prompt[digest].log_reward >= item.log_reward for digest in near):
                out.add(i)
                continue
            for member in map(of_prompt.pop, near):
                out.update(member.arrivals)
                if member.handle:
                    leaving.append(member.handle)
            of_prompt[item.digest] = _Member(tokens, item.log_reward, None, [i])
        if leaving:
            self._store.remove(leaving, counter="near_duplicates")
        return [item for i, item in enumerate(items) if i not in out], len(out)

    def _are_near(self, a: Tokens, b: Tokens) -> bool:
        return Levenshtein.distance(a, b, score_cutoff=self._distance) <= self._distance

    def _kept(self, groups: list[bytes]) -> tuple[int, dict[bytes, dict[bytes, _Member]]]:
        """The newest version seen, and of each group digest -> item."""
        keys, client = self._store.keys, self._store.client
        with client.pipeline(transaction=True) as pipe:
            pipe.hget(keys.counters, "version")
            for group in groups:
                pipe.hget(keys.groups, group)
                pipe.get(keys.group(group))
            newest, *found = pipe.execute()
        arrays = zip(groups, found[::2], found[1::2], strict=True)
        places = [(group, slot) for group, state, array in arrays for slot in _slots(state, array)]
        with client.pipeline(transaction=False) as pipe:
            for _, slot in places:
                pipe.getrange(keys.items, slot * ITEM.itemsize, (slot + 1) * ITEM.itemsize - 1)
            items = np.frombuffer(b"".join(row.ljust(ITEM.itemsize, b"\0") for row in pipe.execute()), ITEM)
        tokens = self._tokens_of(items["digest"].tolist())
        members: dict[bytes, dict[bytes, _Member]] = {group: {} for group in groups}
        fields = (items[name].tolist() for name in ("digest", "group", "level", "log_reward", "generation"))
        for (group, slot), digest, its_group, level, log_reward, generation in zip(places, *fields, strict=True):
            # It may have left, or its slot changed hands, since the array was read.
            if level and its_group == group and digest in tokens:
                members[group][digest] = _Member(tokens[digest], log_reward, Handle(slot, generation), [])
        return -1 if newest is None else int(newest), members

    def _tokens_of(self, digests: list[bytes]) -> dict[bytes, Tokens]:
        """Of those whose record is still there and can be read; a draw finds the others."""
        known = {digest: self._tokens(digest) for digest in digests if digest in self._cache}
        missing = [digest for digest in digests if digest not in known]
        for digest, record in zip(missing, self._store.records(missing), strict=True):
            if record is not None:
                with suppress(RecordError):
                    known[digest] = self._tokens(digest, record)
        return known

    def _tokens(self, digest: bytes, record: bytes = b"") -> Tokens:
        """Of this string; `record` is read where they are not in the cache. Raise RecordError if it can't be."""
        tokens = self._cache.pop(digest, None)
        if tokens is None:
            tokens = tuple(decode(record).token_ids.tolist())
        self._cache[digest] = tokens
        if len(self._cache) > CACHED_STRINGS:
            self._cache.popitem(last=False)
        return tokens


def _slots(state: bytes | None, array: bytes | None) -> list[int]:
    """What a group's array holds behind the places that it has left behind."""
    if state is None or array is None:
        return []
    count, base, head = _GROUP_STATE.unpack(state)
    left = (head - base) % PLACES_END
    slots: list[int] = np.frombuffer(array, "<u4")[left : left + count].tolist()
    return slots
