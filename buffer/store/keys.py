"""Every Redis key of one buffer, in one place.

key              type    content                                                      written by
payload          hash    digest (16 bytes) -> record                                  add, draw, remove
slots            hash    digest -> u32 slot                                           add, draw, remove
items            string  68 bytes per slot, see lua/shared.lua: digest, level, ...    all scripts
levels           string  512 levels: numbers of items, then base and head of each     all scripts
level:<l>        string  packed entries (30 bytes) of the items at level l            all scripts
groups           hash    group (8 bytes) -> number of its items, base, head           add, draw, remove
group:<g>        string  packed u32: slots of the items of group g                    add, draw, remove
rank             zset    slot -> reward or draws; only where a setting needs it       add, draw, remove
arrivals         string  ring of u32 slot, generation, version, number of the tag     add
counters         hash    epoch, settings, lease of the learner, sizes, totals         all scripts
rewards          hash    bin of log R -> number of items                              add, draw, remove
staleness        hash    bit length of the staleness at a draw -> number of draws     draw
quarantine       list    msgpack [digest, reason, head of the record], newest first   remove, ReplayBuffer
events           stream  the last 10,000 calls and their counts                       all scripts
reply:<client>   string  reply to the last call of one client; expires                add, draw
poison_strings   hash    strings being scored, and deaths of scorers at a string      PoisonStrings
alive:<role>     zset    member -> Unix time of its last heartbeat; expires           Heartbeats
actors           hash    turns of prompts claimed, and starts of each actor           ActorCounters

The braces put all keys of a buffer into one Redis Cluster slot, as a script requires.
"""

import re

from buffer.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keys:
    """The keys of the buffer called `name` that Python reads or passes to a script."""

    def __init__(self, name: str) -> None:
        """Raise ConfigError for a name that could break the braces or a terminal."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"buffer name {name!r} must be 1 to 64 characters of A-Z a-z 0-9 . _ -; rename it")
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
        self.poison_strings = f"{self._tag}:poison_strings"
        self.actors = f"{self._tag}:actors"

    def level(self, level: int) -> str:
        """Slots of the items at one level."""
        return f"{self._tag}:level:{level}"

    def group(self, group: bytes) -> bytes:
        """Slots of the items of one group."""
        return f"{self._tag}:group:".encode() + group

    def reply(self, client: str) -> str:
        """The last reply to one client, for a repeated call."""
        return f"{self._tag}:reply:{client}"

    def alive(self, role: str) -> str:
        """Members of a role and their last heartbeats."""
        return f"{self._tag}:alive:{role}"
