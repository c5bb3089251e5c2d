"""Polls a buffer through Redis: for a run whose folder is elsewhere, and to tell whether the server answers.

Needs only the rights of the ACL user `dashboard` (deploy/redis/users.acl): it changes nothing.
"""

import threading
import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from buffer.config import BufferConfig
from buffer.errors import TributaryError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect, redact
from deploy.telemetry.snapshot import buffer_totals

POLL_EVERY_S = 1.0
MAX_QUARANTINED = 50


class RedisPoller:
    """Reads every POLL_EVERY_S in a thread of its own, from `start` to `stop`."""

    def __init__(self, url: str, name: str, capacity: int) -> None:
        """`capacity` is the recipe's, or 0 where it is unknown."""
        self.address, self.name = redact(url), name
        self._url, self._config = url, BufferConfig(capacity=capacity) if capacity else BufferConfig()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-poller", daemon=True)
        self._client: redis.Redis | None = None
        self.readings = 0
        self.newest: tuple[float, dict[str, Any]] | None = None
        """(Unix time, totals and histograms) of the last successful reading."""
        self.quarantine: list[dict[str, Any]] = []
        self.error: str | None = "not read yet"
        """The reason why there is no newer reading, as a sentence; None while the server answers."""

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def read(self) -> None:
        """Take one reading."""
        try:
            if self._client is None:
                self._client = connect(self._url, evicting_ok=True)
                self._client.set_retry(Retry(NoBackoff(), 0))  # report an outage instead of waiting for its end
            buffer = ReplayBuffer(self._client, self._config, self.name)
            totals = buffer_totals(buffer.stats(), histograms=True)
            notes = buffer.quarantined(MAX_QUARANTINED)
        except TributaryError as error:
            self._client, self.error = None, str(error)
            return
        assert totals is not None
        self.newest = time.time(), totals
        self.quarantine = [{"id": note.id, "reason": note.reason, "at": None} for note in notes]
        self.readings += 1
        self.error = None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.read()
            self._stopping.wait(POLL_EVERY_S)
