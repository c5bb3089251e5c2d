"""One run as the dashboard sees it: its history read forward, never written.

consumes   history.sqlite (read-only), config.toml, summary.json, or metrics.jsonl of a run without a history
produces   curves in memory, the newest moment, answers from the tables
waits for  nothing: a file that can't be read now is a HistoryUnreadable, and the next look tries again
unblocked by  the run, which goes on whoever looks
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
from deploy.dashboard.data.redis_poller import LiveBuffer
from deploy.dashboard.data.series import Curve, Points, learner_figures
from deploy.dashboard.data.snapshot_series import moment_figures

READ_AT_ONCE = 5000
"""Rows of a table taken in one go, so that no read holds the file for long."""
BUSY_S = 2.0
Row = dict[str, Any]


class HistoryUnreadable(TributaryError):
    """The history can't be read at this moment."""


class RunReader:
    """Call `refresh` before asking. Several threads may: one reads at a time."""

    def __init__(self, folder: Path, run_id: str, primary: bool) -> None:
        self.folder, self.id, self.primary = folder, run_id, primary
        self.lock = threading.RLock()
        self.live: LiveBuffer | None = None
        """Its buffer's Redis, where the dashboard was told of it."""
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self.learner, self.moments = Points(), Points()
        self.meta: dict[str, Any] = {}
        self._last = {"learner": 0, "moments": 0}
        self._before: tuple[float, Row] | None = None
        self._metrics_size = -1

    @property
    def _path(self) -> Path:
        return self.folder / "history.sqlite"

    @property
    def has_history(self) -> bool:
        """Whether the run keeps one."""
        return self._path.is_file()

    @property
    def generation(self) -> int:
        """Grows where the run begins anew or goes on: what was read before is out of date."""
        return int(self.meta.get("generation", 0))

    @property
    def cursor(self) -> int:
        """The newest row of any table, as the tables count them."""
        if not self.has_history:
            return self._metrics_size
        tables = ("learner", "moments", "samples", "events")
        newest = " UNION ALL ".join(f"SELECT MAX(id) AS id FROM {table}" for table in tables)
        return int(self.query(f"SELECT COALESCE(MAX(id), 0) AS id FROM ({newest})")[0]["id"])

    @property
    def newest_step(self) -> int:
        """Of the learner; 0 before its first."""
        if self.has_history:
            rows = self.query("SELECT step FROM learner ORDER BY id DESC LIMIT 1")
            return int(rows[0]["step"]) if rows else 0
        steps = self.learner.curve("learner.loss").step
        return int(steps[-1]) if len(steps) else 0

    def refresh(self) -> None:
        """Take in all that is new."""
        with self.lock:
            self.glance()
            if self.has_history:
                self._refresh_learner()
                self._refresh_moments()

    def glance(self) -> None:
        """Take in how the run stands, and leave its curves for `refresh`: enough for a list of runs."""
        with self.lock:
            if not self.has_history:
                self._refresh_metrics()
                return
            found = self._path.stat()
            if self._file != (found.st_dev, found.st_ino):
                self._close()
                self._forget()
                self._file = (found.st_dev, found.st_ino)
            rows = self.query("SELECT key, value FROM meta")
            meta = {row["key"]: json.loads(row["value"]) for row in rows}
            if meta.get("generation") != self.meta.get("generation"):
                self._forget()
            self.meta = meta

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of one SELECT; none where there is no history. Raise HistoryUnreadable."""
        with self.lock:
            try:
                return self._open().execute(sql, tuple(values)).fetchall() if self.has_history else []
            except sqlite3.Error as error:
                self._close()
                raise HistoryUnreadable(
                    f"{self._path.name} of {self.folder.name} can't be read now ({error}). The page tries again; if "
                    "it stays so, the file is damaged: move it away, the run's other files are whole."
                ) from error

    def curve(self, name: str) -> Curve:
        """Of a name of the catalog; no points where there is none."""
        kind = name.split(".")[0]
        return (self.learner if kind in ("learner", "prompt") else self.moments).curve(name)

    def config(self) -> Row:
        """The resolved recipe; empty where it can't be read."""
        with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
            return tomllib.loads((self.folder / "config.toml").read_text())
        return {}

    def summary(self) -> Row | None:
        """summary.json; None while the run has not come to its end."""
        with suppress(OSError, json.JSONDecodeError, UnicodeDecodeError):
            found: Row = json.loads((self.folder / "summary.json").read_text())
            return found
        return None

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # a WAL file in a folder that can't be written to opens only as one that nobody changes
            alone = "" if os.access(self.folder, os.W_OK) else "&immutable=1"
            address = f"file:{quote(str(self._path))}?mode=ro{alone}"
            self._db = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA query_only = ON")
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def _new_rows(self, table: str) -> list[sqlite3.Row]:
        sql = f"SELECT id, at, step, data FROM {table} WHERE id > ? ORDER BY id LIMIT {READ_AT_ONCE}"
        rows = self.query(sql, (self._last[table],))
        if rows:
            self._last[table] = rows[-1]["id"]
        return rows

    def _refresh_learner(self) -> None:
        while rows := self._new_rows("learner"):
            for row in rows:
                self.learner.add(row["at"], row["step"], learner_figures(json.loads(row["data"])))

    def _refresh_moments(self) -> None:
        while rows := self._new_rows("moments"):
            for row in rows:
                at, now = float(row["at"]), json.loads(row["data"])
                before_at, before = self._before or (at, None)
                version = int((now.get("buffer") or {}).get("newest_version", -1))  # of then, not of the end
                self.moments.add(at, row["step"], moment_figures(before, now, at - before_at, version))
                self._before = at, now

    def _refresh_metrics(self) -> None:
        """A run of an earlier release, or one that could not write: what metrics.jsonl has."""
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
            self.learner.add(at, row["step"], learner_figures(row))
