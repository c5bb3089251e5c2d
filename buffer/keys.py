"""Every Redis key of one buffer, in one place.

key             type    content                                        written by               read by
payload         hash    id -> encoded Trajectory                       add, quarantine          draw, ReplayBuffer.draw
weight          hash    id -> draw weight                              add, reprio., quarantine draw, reprioritize
clock           zset    id -> virtual time of its next draw            all four scripts         draw, reprioritize
order           zset    id -> number of its last add                   add, quarantine          add (eviction), stats
fresh           list    "id version behaviour" as they arrived         add, draw (takes away)   draw, stats
counters        hash    totals, the clock's now, the largest weight    all four scripts         all scripts, stats
quarantine      list    msgpack [id, reason, head of the record]       quarantine               ReplayBuffer.quarantine
answer:<nonce>  string  what one add call answered; expires            add                      the same add, sent again
alive:<role>    zset    member -> Unix time of its last beat; expires  Heartbeats               Heartbeats

The braces make one Redis Cluster slot of all keys of a buffer, which a script needs.
"""

import re

from buffer.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keys:
    """The keys of the buffer called `name`."""

    def __init__(self, name: str) -> None:
        """Raise ConfigError for a name that could break the braces or someone's terminal."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"buffer name {name!r} must be 1 to 64 of A-Z a-z 0-9 . _ -; rename it")
        self._tag = f"{{tributary:{name}}}"
        self.payload = f"{self._tag}:payload"
        self.weight = f"{self._tag}:weight"
        self.clock = f"{self._tag}:clock"
        self.order = f"{self._tag}:order"
        self.fresh = f"{self._tag}:fresh"
        self.counters = f"{self._tag}:counters"
        self.quarantine = f"{self._tag}:quarantine"

    def answer(self, nonce: str) -> str:
        """Where one add call leaves its answer for its own repetition."""
        return f"{self._tag}:answer:{nonce}"

    def alive(self, role: str) -> str:
        """Who of this role has beaten lately."""
        return f"{self._tag}:alive:{role}"

    def stored(self) -> list[str]:
        """The keys that hold the buffer's content, without heartbeats."""
        return [self.payload, self.weight, self.clock, self.order, self.fresh, self.counters, self.quarantine]
