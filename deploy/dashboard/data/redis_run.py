"""A run that is read through its buffer's Redis only: its newest hours are kept in memory."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.dashboard.data.redis_poller import RedisPoller
from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Series
from deploy.telemetry.snapshot import HISTOGRAMS

MAX_READINGS = 50_000
"""Then the curves start again: 14 hours."""


class RedisRun(RunReader):
    """Takes its snapshots from Redis instead of a history."""

    def __init__(self, poller: RedisPoller) -> None:
        super().__init__(Path(poller.name), "redis", primary=True)
        self.redis_poller = poller
        self._read, self._generation = 0, 1
        self._about: dict[str, Any] = {"task": None, "model": None, "steps": 0, "began_at": time.time(), "limits": {}}
        self.meta = {"generation": self._generation, "about": self._about}

    @property
    def has_history(self) -> bool:
        """False: there is no file."""
        return False

    @property
    def cursor(self) -> int:
        """Number of readings taken."""
        return self._read

    @property
    def newest_step(self) -> int:
        """0: the buffer does not know the learner's step."""
        return 0

    def glance(self) -> None:
        """Take in the newest reading."""
        with self.lock:
            poller = self.redis_poller
            if poller is None or poller.newest is None or poller.readings == self._read:
                return
            if self._read >= MAX_READINGS * self._generation:
                self._generation += 1
                self.snapshots = Series()
            self._read = poller.readings
            at, totals = poller.newest
            scalars = {name: value for name, value in totals.items() if name not in HISTOGRAMS}
            snapshot: dict[str, Any] = {
                "phase": "watching",
                "elapsed_s": None,
                "buffer": scalars,
                "actors": [],
                "rewards": [],
                "waits": [],
            }
            self.snapshots.add(at, 0, self._snapshot_reader.values(at, snapshot, totals["newest_version"]))
            newest = {"at": at, "step": 0, "snapshot": snapshot, "alerts": [], "restarts": {}, "buffer": totals}
            self.meta = {"generation": self._generation, "about": self._about, "now": newest}

    def refresh(self) -> None:
        """Take in the newest reading."""
        self.glance()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """No rows: there are no tables."""
        return []
