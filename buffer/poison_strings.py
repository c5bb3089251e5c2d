"""Strings that kill the process that scores them, remembered beyond its death.

A worker marks a string before it scores it. A restarted worker that finds its own mark counts a death at that string.
One death proves nothing: the node may have been preempted, or out of memory. After MAX_DEATHS without a success in
between, the string is poison: no worker scores it again.
"""

from typing import Any

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

MAX_DEATHS = 2
"""Deaths at one string, without a success in between, that make it a poison string."""

_SCORING, _DEATHS = "scoring:", "deaths:"


class PoisonStrings:
    """The poison strings of one buffer, by content id."""

    def __init__(self, client: redis.Redis, buffer_name: str, worker: str) -> None:
        """Counts a death at the string that `worker` was scoring when it died, if any."""
        self._client = client
        self._key = Keys(buffer_name).poison_strings
        self._worker = worker
        self._marked = ""
        self._suspects = frozenset[str]()
        self._count_death()

    @store_errors("marking the string to be scored")
    def mark(self, content_id: str) -> None:
        """Note that the worker is about to score this string, hence has survived the one before."""
        self._acquit()
        self._marked = content_id
        self._client.hset(self._key, _SCORING + self._worker, content_id)

    @store_errors("removing the mark of a scored string")
    def unmark(self) -> None:
        """Note that the worker has survived the marked string."""
        self._acquit()
        self._client.hdel(self._key, _SCORING + self._worker)

    @store_errors("reading the poison strings")
    def ids(self) -> frozenset[str]:
        """Content ids of all strings at which MAX_DEATHS workers have died."""
        fields: Any = self._client.hgetall(self._key)
        deaths = {
            name.decode().removeprefix(_DEATHS): int(number)
            for name, number in fields.items()
            if name.decode().startswith(_DEATHS)
        }
        self._suspects = frozenset(deaths)
        return frozenset(content_id for content_id, number in deaths.items() if number >= MAX_DEATHS)

    def _acquit(self) -> None:
        """The marked string, if any, was scored: deaths at it had another cause."""
        if self._marked in self._suspects:
            self._client.hdel(self._key, _DEATHS + self._marked)
        self._marked = ""

    @store_errors("looking for the string that killed a worker")
    def _count_death(self) -> None:
        content_id = self._client.hget(self._key, _SCORING + self._worker)
        if isinstance(content_id, bytes):
            field = _DEATHS + content_id.decode()
            deaths = int(self._client.hget(self._key, field) or 0)
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(self._key, field, deaths + 1)  # not an increment: the call may be repeated
                pipe.hdel(self._key, _SCORING + self._worker)
                pipe.execute()
