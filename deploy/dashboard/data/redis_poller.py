"""A buffer watched by itself, through Redis: for a run whose folder is elsewhere, and to say if the server answers.

Reads with what the ACL user `dashboard` may (deploy/redis/users.acl): it can't change or disturb anything.
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

EVERY_S = 1.0
QUARANTINE = 50


class LiveBuffer:
    """Reads once in EVERY_S in a thread of its own, from `start` to `stop`."""

    def __init__(self, url: str, name: str, capacity: int) -> None:
        """`capacity` is the recipe's, or 0 where it is not known."""
        self.address, self.name = redact(url), name
        self._url, self._config = url, BufferConfig(capacity=capacity) if capacity else BufferConfig()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-buffer", daemon=True)
        self._client: redis.Redis | None = None
        self.readings = 0
        self.newest: tuple[float, dict[str, Any]] | None = None
        """(Unix time, totals and histograms) of the last reading that came back."""
        self.quarantine: list[dict[str, Any]] = []
        self.error: str | None = "not asked yet"
        """Why there is no newer one, in a sentence; None while the server answers."""

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def read(self) -> None:
        """One reading."""
        try:
            if self._client is None:
                self._client = connect(self._url)
                self._client.set_retry(Retry(NoBackoff(), 0))  # an outage is to be seen, not to be waited out
            buffer = ReplayBuffer(self._client, self._config, self.name)
            totals = buffer_totals(buffer.stats(), histograms=True)
            notes = buffer.quarantined(QUARANTINE)
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
            self._stopping.wait(EVERY_S)
