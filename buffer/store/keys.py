"""Every Redis key of one buffer, in one place.

key              type    content                                                      written by
payload          hash    digest (16 bytes) -> record                                  add, draw, remove
slots            hash    digest -> u32 slot                                            add, draw, remove
items            string  per slot, what lua/shared.lua tells: digest, level, age ...  all scripts
levels           string  of 512 levels: numbers of items, then base and head of each    all scripts
level:<l>        string  packed u32: slots of the items at level l                     all scripts
groups           hash    group (8 bytes) -> number of its items, base, head           add, draw, remove
group:<g>        string  packed u32: slots of the items of group g                     add, draw, remove
rank             zset    slot -> reward or draws; only where a setting needs it       add, draw, remove
arrivals         string  ring of u32 slot, generation, version, number of the tag      add
counters         hash    epoch, settings, sizes, totals                               all scripts
rewards          hash    bin of log R -> number of items                              add, draw, remove
staleness        hash    bit length of the staleness at a draw -> number of draws     draw
quarantine       list    msgpack [digest, reason, head of the record], newest first   remove
events           stream  what happened, the last 10,000 calls                         all scripts
answer:<client>  string  what one client's last call answered; expires                add, draw
suspects         hash    strings that are being scored, and those that ended who scored     PoisonStrings
alive:<role>     zset    member -> Unix time of its last beat; expires                Heartbeats

The braces make one Redis Cluster slot of all keys of a buffer, which a script needs.
"""

import re

from buffer.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keys:
    """The keys of the buffer called `name` that Python reads or hands to a script."""

    def __init__(self, name: str) -> None:
        """Raise ConfigError for a name that could break the braces or someone's terminal."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"buffer name {name!r} must be 1 to 64 of A-Z a-z 0-9 . _ -; rename it")
        self._tag = f"{{tributary:{name}}}"
        self.payload = f"{self._tag}:payload"
        self.slots = f"{self._tag}:slots"
        self.items = f"{self._tag}:items"
        self.levels = f"{self._tag}:levels"
        self.groups = f"{self._tag}:groups"
        self.rank = f"{self._tag}:rank"
        self.arrivals = f"{self._tag}:arrivals"
        self.counters = f"{self._tag}:counters"
        self.rewards = f"{self._tag}:rewards"
        self.staleness = f"{self._tag}:staleness"
        self.quarantine = f"{self._tag}:quarantine"
        self.events = f"{self._tag}:events"
        self.suspects = f"{self._tag}:suspects"

    def level(self, level: int) -> str:
        """Slots of the items at one level."""
        return f"{self._tag}:level:{level}"

    def group(self, group: bytes) -> bytes:
        """Slots of the items of one group."""
        return f"{self._tag}:group:".encode() + group

    def answer(self, client: str) -> str:
        """Where a client's calls leave their answers for their own repetition."""
        return f"{self._tag}:answer:{client}"

    def alive(self, role: str) -> str:
        """Who of this role has beaten lately."""
        return f"{self._tag}:alive:{role}"
