"""Strings that kill the process that scores them, remembered beyond its death.

A worker marks a string before it scores it. A restarted worker that finds its own mark adds the string to the poison
strings: no worker scores it again.
"""

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

_SCORING, _POISON = "scoring:", "poison:"


class PoisonStrings:
    """The poison strings of one buffer, by content id."""

    def __init__(self, client: redis.Redis, buffer_name: str, worker: str) -> None:
        """The string that `worker` was scoring when it died, if any, becomes a poison string."""
        self._client = client
        self._key = Keys(buffer_name).poison_strings
        self._worker = worker
        self._add_marked()

    @store_errors("marking the string to be scored")
    def mark(self, content_id: str) -> None:
        """Note that the worker is about to score this string."""
        self._client.hset(self._key, _SCORING + self._worker, content_id)

    @store_errors("removing the mark of a scored string")
    def unmark(self) -> None:
        """Note that the worker has survived the marked string."""
        self._client.hdel(self._key, _SCORING + self._worker)

    @store_errors("reading the poison strings")
    def ids(self) -> frozenset[str]:
        """Content ids of all strings that have killed a worker."""
        fields = (name.decode() for name in self._client.hgetall(self._key))  # type: ignore[union-attr]
        return frozenset(name.removeprefix(_POISON) for name in fields if name.startswith(_POISON))

    @store_errors("looking for the string that killed a worker")
    def _add_marked(self) -> None:
        content_id = self._client.hget(self._key, _SCORING + self._worker)
        if isinstance(content_id, bytes):
            self._client.hset(self._key, _POISON + content_id.decode(), self._worker)
            self.unmark()
