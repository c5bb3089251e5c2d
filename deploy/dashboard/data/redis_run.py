"""A run of which only the buffer's address is known: its newest hours are kept in memory, nothing else is."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.dashboard.data.redis_poller import LiveBuffer
from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Points
from deploy.dashboard.data.snapshot_series import moment_figures
from deploy.telemetry.snapshot import HISTOGRAMS

MOST_READINGS = 50_000
"""Then it begins anew: 14 hours."""


class RedisRun(RunReader):
    """Snapshots come from Redis instead of a history."""

    def __init__(self, live: LiveBuffer) -> None:
        super().__init__(Path(live.name), "redis", primary=True)
        self.live = live
        self._read, self._generation = 0, 1
        self._earlier: tuple[float, dict[str, Any]] | None = None
        self._about: dict[str, Any] = {"task": None, "model": None, "steps": 0, "began_at": time.time(), "limits": {}}
        self.meta = {"generation": self._generation, "about": self._about}

    @property
    def has_history(self) -> bool:
        """There is no file."""
        return False

    @property
    def cursor(self) -> int:
        """Readings taken."""
        return self._read

    @property
    def newest_step(self) -> int:
        """Nobody says."""
        return 0

    def glance(self) -> None:
        """Take in the newest reading."""
        with self.lock:
            if self.live is None or self.live.newest is None or self.live.readings == self._read:
                return
            if self._read >= MOST_READINGS * self._generation:
                self._generation += 1
                self.moments = Points()
            self._read = self.live.readings
            at, totals = self.live.newest
            plain = {name: value for name, value in totals.items() if name not in HISTOGRAMS}
            moment: dict[str, Any] = {
                "phase": "watching",
                "elapsed_s": None,
                "buffer": plain,
                "actors": [],
                "rewards": [],
                "waits": [],
            }
            before_at, before = self._earlier or (at, None)
            self.moments.add(at, 0, moment_figures(before, moment, at - before_at, totals["newest_version"]))
            self._earlier = at, moment
            now = {"at": at, "step": 0, "moment": moment, "alarms": [], "restarts": {}, "buffer": totals}
            self.meta = {"generation": self._generation, "about": self._about, "now": now}

    def refresh(self) -> None:
        """The same."""
        self.glance()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """There are no tables."""
        return []
