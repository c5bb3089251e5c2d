"""Among strings that differ in a few tokens only, the buffer keeps the best.

The adding process compares, before the store's own checks: a script would block the server meanwhile. Two workers that
add at the same time do not see each other's strings, so each may admit one of a near-duplicate pair. The pair then
stays until a better string near both replaces it, or both leave like any other.
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
"""Strings whose tokens a process caches, at 40 bytes per token."""

Tokens: TypeAlias = tuple[int, ...]
"""The tokens of a response. rapidfuzz compares tuples of ints several times as fast as arrays."""

_GROUP_STATE = struct.Struct("<III")


@dataclass(slots=True)
class _Member:
    """A string of one prompt: in the store, or about to be added."""

    tokens: Tokens
    log_reward: float
    handle: Handle | None
    """None: not in the store yet."""
    arrivals: list[int]
    """Its positions in the batch."""


class NearDuplicates:
    """Compares new strings with those stored for the same prompt."""

    def __init__(self, store: ItemStore, distance: int) -> None:
        """`distance`: maximum number of insertions, deletions and substitutions of tokens between two near strings."""
        self._store = store
        self._distance = distance
        self._cache: OrderedDict[bytes, Tokens] = OrderedDict()

    def admit(self, items: Sequence[NewItem]) -> tuple[list[NewItem], int]:
        """The items to add, and the number refused; removes from the store the items that they replace.

        Items are compared in the order of the batch, each as if those before it were in the store: it is refused if a
        near string has an equal or higher reward, else it replaces all near strings. Exact repeats, and items that the
        store will refuse as stale, pass. Three round trips, one more to remove items; O(items of the prompts)
        comparisons for each item.
        """
        newest, members = self._stored(list(dict.fromkeys(item.group for item in items)))
        newest = max([newest, *(item.version for item in items if item.version != NONE)])
        max_staleness = self._store.settings.max_staleness
        refused, replaced = set[int](), list[Handle]()
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
                refused.add(i)
                continue
            for member in map(of_prompt.pop, near):
                refused.update(member.arrivals)
                if member.handle:
                    replaced.append(member.handle)
            of_prompt[item.digest] = _Member(tokens, item.log_reward, None, [i])
        if replaced:
            self._store.remove(replaced, counter="near_duplicates")
        return [item for i, item in enumerate(items) if i not in refused], len(refused)

    def _are_near(self, a: Tokens, b: Tokens) -> bool:
        return Levenshtein.distance(a, b, score_cutoff=self._distance) <= self._distance

    def _stored(self, groups: list[bytes]) -> tuple[int, dict[bytes, dict[bytes, _Member]]]:
        """The newest version of any arrival, and for each group digest -> stored item."""
        keys, client = self._store.keys, self._store.client
        with client.pipeline(transaction=True) as pipe:
            pipe.hget(keys.counters, "version")
            for group in groups:
                pipe.hget(keys.groups, group)
                pipe.get(keys.group(group))
            newest, *replies = pipe.execute()
        arrays = zip(groups, replies[::2], replies[1::2], strict=True)
        places = [(group, slot) for group, state, array in arrays for slot in _slots(state, array)]
        with client.pipeline(transaction=False) as pipe:
            for _, slot in places:
                pipe.getrange(keys.items, slot * ITEM.itemsize, (slot + 1) * ITEM.itemsize - 1)
            items = np.frombuffer(b"".join(row.ljust(ITEM.itemsize, b"\0") for row in pipe.execute()), ITEM)
        tokens = self._tokens_of(items["digest"].tolist())
        members: dict[bytes, dict[bytes, _Member]] = {group: {} for group in groups}
        fields = (items[name].tolist() for name in ("digest", "group", "level", "log_reward", "generation"))
        for (group, slot), digest, its_group, level, log_reward, generation in zip(places, *fields, strict=True):
            # The item may have left, or its slot been reused, since the array was read.
            if level and its_group == group and digest in tokens:
                members[group][digest] = _Member(tokens[digest], log_reward, Handle(slot, generation), [])
        return -1 if newest is None else int(newest), members

    def _tokens_of(self, digests: list[bytes]) -> dict[bytes, Tokens]:
        """Tokens of the strings whose record is present and readable; a draw quarantines the unreadable ones."""
        tokens = {digest: self._tokens(digest) for digest in digests if digest in self._cache}
        missing = [digest for digest in digests if digest not in tokens]
        for digest, record in zip(missing, self._store.records(missing), strict=True):
            if record is not None:
                with suppress(RecordError):
                    tokens[digest] = self._tokens(digest, record)
        return tokens

    def _tokens(self, digest: bytes, record: bytes = b"") -> Tokens:
        """Tokens of one string, from the cache or from `record`. Raise RecordError if the record is malformed."""
        tokens = self._cache.pop(digest, None)
        if tokens is None:
            tokens = tuple(decode(record).token_ids.tolist())
        self._cache[digest] = tokens
        if len(self._cache) > CACHED_STRINGS:
            self._cache.popitem(last=False)
        return tokens


def _slots(state: bytes | None, array: bytes | None) -> list[int]:
    """The slots in a group's array, behind its skipped places."""
    if state is None or array is None:
        return []
    count, base, head = _GROUP_STATE.unpack(state)
    skipped = (head - base) % PLACES_END
    slots: list[int] = np.frombuffer(array, "<u4")[skipped : skipped + count].tolist()
    return slots
