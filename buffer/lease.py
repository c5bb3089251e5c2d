"""The lease of a buffer: of two learners on one buffer only the newest may publish and save.

Two runs use one buffer where a run's folder was copied. The token fences the older learner off: Redis compares it in
the same step in which it stores a new version (ItemStore.publish).
"""

import secrets
from typing import Any

from buffer.errors import StoreError
from buffer.server.connect import store_errors
from buffer.store.item_store import ItemStore


class Lease:
    """The lease as one process sees it."""

    def __init__(self, store: ItemStore) -> None:
        self._store = store
        self.token = ""
        """Empty until `take`."""

    @store_errors("taking the lease")
    def take(self) -> None:
        """Become the only learner of this buffer: an earlier one can neither publish nor save from now on."""
        self.token = secrets.token_hex(8)
        self._store.client.hset(self._store.keys.counters, "lease", self.token)

    @store_errors("reading the lease")
    def require(self) -> None:
        """StoreError where another learner has taken the lease since, or where the buffer is gone."""
        holder: Any = self._store.client.hget(self._store.keys.counters, "lease")
        if holder is None:
            raise StoreError(
                "the buffer that this process used is gone: someone cleared it or emptied the server. Start the run "
                "again, or resume it from its checkpoint."
            )
        if holder.decode() != self.token:
            raise StoreError(
                f"another learner has taken over buffer {self._store.name!r}, so this one stops: nothing that it did "
                "since was published or saved. Two runs use one buffer where a run's folder was copied: delete the "
                "file `name` in the copy and start it with --replace, or stop the other run."
            )
