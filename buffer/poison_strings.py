"""Which strings end the process that scores them: known after the process is gone.

A worker names the string before it scores it. One that is started again finds the name still there: that string is
never scored again, by anybody.
"""

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

_NOW, _BAD = "now:", "bad:"


class PoisonStrings:
    """Those of one buffer. Ids are of the caller's making."""

    def __init__(self, client: redis.Redis, buffer_name: str, worker: str) -> None:
        """Whatever `worker` was at when it ended is bad from now on."""
        self._client = client
        self._key = Keys(buffer_name).suspects
        self._worker = worker
        self._convict()

    @store_errors("naming the string to be scored")
    def name(self, string_id: str) -> None:
        """It is about to be scored."""
        self._client.hset(self._key, _NOW + self._worker, string_id)

    @store_errors("taking a name back")
    def clear(self) -> None:
        """The worker lives."""
        self._client.hdel(self._key, _NOW + self._worker)

    @store_errors("reading which strings are bad")
    def bad(self) -> frozenset[str]:
        """All that ended a process so far."""
        fields = (name.decode() for name in self._client.hgetall(self._key))  # type: ignore[union-attr]
        return frozenset(name.removeprefix(_BAD) for name in fields if name.startswith(_BAD))

    @store_errors("looking for what ended a worker")
    def _convict(self) -> None:
        found = self._client.hget(self._key, _NOW + self._worker)
        if isinstance(found, bytes):
            self._client.hset(self._key, _BAD + found.decode(), self._worker)
            self.clear()
