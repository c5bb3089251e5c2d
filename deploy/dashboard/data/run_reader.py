"""One run on the dashboard: its history is read forward and never written.

consumes   history.sqlite (read-only), config.toml, summary.json, or metrics.jsonl of a run without a history
produces   curves in memory, the newest snapshot, rows of the tables
waits for  nothing: an unreadable file raises HistoryUnreadable, and the next refresh tries again
unblocked by  nobody; the run does not depend on its readers
"""

import json
import os
import sqlite3
import threading
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from buffer.errors import TributaryError
from deploy.artifacts.json_files import read_lines
from deploy.dashboard.data.redis_poller import RedisPoller
from deploy.dashboard.data.series import Curve, Series, learner_values
from deploy.dashboard.data.snapshot_series import snapshot_values
from deploy.telemetry.history_store import SCHEMA_VERSION

MAX_ROWS_PER_READ = 5000
"""Bounds the time that one read holds the file."""
BUSY_S = 2.0
Row = dict[str, Any]


class HistoryUnreadable(TributaryError):
    """The history cannot be read at this moment."""


class RunReader:
    """Call `refresh` before reading. Safe for several threads; one reads at a time."""

    def __init__(self, folder: Path, run_id: str, primary: bool) -> None:
        self.folder, self.id, self.primary = folder, run_id, primary
        self.lock = threading.RLock()
        self.redis_poller: RedisPoller | None = None
        """Polls its buffer's Redis, where the dashboard was given its address."""
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self.learner, self.snapshots = Series(), Series()
        self.meta: dict[str, Any] = {}
        self._last = {"learner": 0, "snapshots": 0}
        self._before: tuple[float, Row] | None = None
        self._metrics_size = -1

    @property
    def _path(self) -> Path:
        return self.folder / "history.sqlite"

    @property
    def has_history(self) -> bool:
        """True if the run has a history file."""
        return self._path.is_file()

    @property
    def generation(self) -> int:
        """Grows when the run is replaced or resumed: rows read before are out of date."""
        return int(self.meta.get("generation", 0))

    @property
    def cursor(self) -> int:
        """Id of the newest row of any table."""
        if not self.has_history:
            return self._metrics_size
        tables = ("learner", "snapshots", "samples", "events")
        newest = " UNION ALL ".join(f"SELECT MAX(id) AS id FROM {table}" for table in tables)
        return int(self.query(f"SELECT COALESCE(MAX(id), 0) AS id FROM ({newest})")[0]["id"])

    @property
    def newest_step(self) -> int:
        """Newest learner step; 0 before the first."""
        if self.has_history:
            rows = self.query("SELECT step FROM learner ORDER BY id DESC LIMIT 1")
            return int(rows[0]["step"]) if rows else 0
        steps = self.learner.curve("learner.loss").step
        return int(steps[-1]) if len(steps) else 0

    def refresh(self) -> None:
        """Read all new rows. Raise HistoryUnreadable, also for the tables of another release."""
        with self.lock:
            self.glance()
            if self.has_history:
                self._check_schema()
                self._refresh_learner()
                self._refresh_snapshots()

    def glance(self) -> None:
        """Read the run's state without its curves: enough for a list of runs."""
        with self.lock:
            if not self.has_history:
                self._refresh_metrics()
                return
            status = self._path.stat()
            if self._file != (status.st_dev, status.st_ino):
                self._close()
                self._forget()
                self._file = (status.st_dev, status.st_ino)
            rows = self.query("SELECT key, value FROM meta")
            meta = {row["key"]: json.loads(row["value"]) for row in rows}
            if meta.get("generation") != self.meta.get("generation"):
                self._forget()
            self.meta = meta

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of one SELECT; [] without a history. Raise HistoryUnreadable."""
        with self.lock:
            try:
                return self._open().execute(sql, tuple(values)).fetchall() if self.has_history else []
            except sqlite3.Error as error:
                self._close()
                raise HistoryUnreadable(
                    f"{self._path.name} of {self.folder.name} cannot be read now ({error}). The page tries again; if "
                    "that does not help, the file is damaged: move it away, the run's other files are intact."
                ) from error

    def curve(self, name: str) -> Curve:
        """A curve of the catalogue; without points for an unknown name."""
        kind = name.split(".")[0]
        return (self.learner if kind in ("learner", "prompt") else self.snapshots).curve(name)

    def config(self) -> Row:
        """The resolved recipe; empty where it cannot be read."""
        with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
            return tomllib.loads((self.folder / "config.toml").read_text())
        return {}

    def summary(self) -> Row | None:
        """summary.json; None before the end of the run."""
        return self._json("summary.json")

    def evaluation(self) -> Row | None:
        """evaluation.json; None before `tributary evaluate`."""
        return self._json("evaluation.json")

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._close()

    def _json(self, name: str) -> Row | None:
        with suppress(OSError, json.JSONDecodeError, UnicodeDecodeError):
            values: Row = json.loads((self.folder / name).read_text())
            return values
        return None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # SQLite opens a WAL file in a read-only folder only if it is declared immutable
            immutable = "" if os.access(self.folder, os.W_OK) else "&immutable=1"
            address = f"file:{quote(str(self._path))}?mode=ro{immutable}"
            self._db = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA query_only = ON")
        return self._db

    def _check_schema(self) -> None:
        version = self.meta.get("schema", SCHEMA_VERSION)  # absent while the writer creates the file
        if version != SCHEMA_VERSION:
            raise HistoryUnreadable(
                f"{self._path.name} of {self.folder.name} has tables of version {version}, and this release reads "
                f"version {SCHEMA_VERSION}. Use the release that wrote it, or move the file away: the learner's curves "
                "are then read from metrics.jsonl."
            )

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def _new_rows(self, table: str) -> list[sqlite3.Row]:
        sql = f"SELECT id, at, step, data FROM {table} WHERE id > ? ORDER BY id LIMIT {MAX_ROWS_PER_READ}"
        rows = self.query(sql, (self._last[table],))
        if rows:
            self._last[table] = rows[-1]["id"]
        return rows

    def _refresh_learner(self) -> None:
        while rows := self._new_rows("learner"):
            for row in rows:
                data = json.loads(row["data"])
                self.learner.add(row["at"], row["step"], learner_values(data), data.get("sampled_step"))

    def _refresh_snapshots(self) -> None:
        while rows := self._new_rows("snapshots"):
            for row in rows:
                at, snapshot = float(row["at"]), json.loads(row["data"])
                before_at, before = self._before or (at, None)
                version = int((snapshot.get("buffer") or {}).get("newest_version", -1))  # at that time
                self.snapshots.add(at, row["step"], snapshot_values(before, snapshot, at - before_at, version))
                self._before = at, snapshot

    def _refresh_metrics(self) -> None:
        """Read metrics.jsonl, for a run without a history."""
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size == self._metrics_size:
            return
        self._forget()
        self._metrics_size = size
        began = path.stat().st_mtime if size else 0.0
        rows: list[Mapping[str, Any]] = list(read_lines(path))
        lasted = rows[-1].get("elapsed_s", 0.0) if rows else 0.0
        for row in rows:
            at = began - lasted + row.get("elapsed_s", 0.0)
            self.learner.add(at, row["step"], learner_values(row), row.get("sampled_step"))
