"""One run on the dashboard: its history is read forward and never written.

consumes   history.sqlite (read-only), config.toml, summary.json, or metrics.jsonl of a run without a history
produces   curves in memory, the newest snapshot, rows of the tables
waits for  nothing: an unreadable file raises HistoryUnreadable, and the next refresh tries again
unblocked by  nobody; the run does not depend on its readers
"""

import json
import os
import sqlite3
import stat
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from buffer.errors import TributaryError
from deploy.artifacts.json_files import parse_lines
from deploy.dashboard.data.redis_poller import RedisPoller
from deploy.dashboard.data.series import Curve, Series, learner_values
from deploy.dashboard.data.snapshot_series import SnapshotReader
from deploy.telemetry.history_store import SCHEMA_VERSION

MAX_ROWS_PER_READ = 5000
"""Bounds the time that one read holds the file."""
BUSY_S = 2.0
QUERY_LIMIT_S = 3.0
"""Longest query. The largest table of a real run takes a tenth of it."""
PROGRESS_STEPS = 20_000
"""SQLite's instructions between two looks at the clock."""
MAX_FILE_BYTES = {
    "config.toml": 2**20, "summary.json": 16 * 2**20, "evaluation.json": 16 * 2**20, "metrics.jsonl": 2**30,
    "history.sqlite": 2**30, "evaluations.jsonl": 16 * 2**20,
    **{f"plots/{name}.{kind}": 8 * 2**20 for name in ("histogram", "posterior") for kind in ("png", "svg")},
}  # fmt: skip
"""Larger files are not those of a run: history_store.py keeps below a fifth of it."""
MAX_VALUE_BYTES = 64 * 2**20
"""Largest text of one cell."""
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
        self._deadline = 0.0
        self._file: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self.learner, self.snapshots = Series(), Series()
        self.meta: dict[str, Any] = {}
        self._last = {"learner": 0, "snapshots": 0}
        self._snapshot_reader = SnapshotReader()
        self._metrics_size = -1

    @property
    def _path(self) -> Path:
        return self.folder / "history.sqlite"

    @property
    def has_history(self) -> bool:
        """True if the run has a history file."""
        return self._is_usable("history.sqlite")

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
                return self._in_time(sql, values) if self.has_history else []
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
        with suppress(OSError, ValueError, RecursionError):  # ValueError: TOML or UTF-8
            return tomllib.loads(self._content("config.toml").decode())
        return {}

    def summary(self) -> Row | None:
        """summary.json; None before the end of the run."""
        return self._json("summary.json")

    def evaluation(self) -> Row | None:
        """evaluation.json; None before `tributary evaluate`."""
        return self._json("evaluation.json")

    def newest_held_out(self) -> Row | None:
        """The newest evaluation while training, a line of evaluations.jsonl; None before the first."""
        with suppress(OSError, ValueError, RecursionError):
            rows = parse_lines(self._content("evaluations.jsonl").decode())
            return rows[-1] if rows and isinstance(rows[-1], dict) else None
        return None

    def file(self, name: str) -> bytes | None:
        """A file of MAX_FILE_BYTES as it is; None where it is missing, a link or too large."""
        with suppress(OSError):
            return self._content(name)
        return None

    def changed_at(self, name: str) -> float | None:
        """Unix time of the last change of one of MAX_FILE_BYTES, s; None where there is no such file."""
        with suppress(OSError):
            return (self.folder / name).lstat().st_mtime if self._is_usable(name) else None
        return None

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._close()

    def _json(self, name: str) -> Row | None:
        with suppress(OSError, ValueError, RecursionError):
            values: Row = json.loads(self._content(name))
            return values if isinstance(values, dict) else None
        return None

    def _is_usable(self, name: str) -> bool:
        """True for a regular file of reasonable size; a link is none, since it may lead to a file of this user."""
        with suppress(OSError):
            status = (self.folder / name).lstat()
            return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES[name]
        return False

    def _content(self, name: str) -> bytes:
        """The content of a file. OSError for a link, on the way of a neighbour too, and for anything but a file."""
        follow = 0 if self.primary else os.O_NOFOLLOW
        *inner, last = name.split("/")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | follow)
        try:
            for part in inner:
                outer, folder = folder, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(outer)
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES[name]:
                raise OSError(f"{name} is not a file of a run")
            return file.read(MAX_FILE_BYTES[name])

    def _in_time(self, sql: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        """The rows of one SELECT. sqlite3.OperationalError after QUERY_LIMIT_S."""
        self._deadline = time.monotonic() + QUERY_LIMIT_S
        return self._open().execute(sql, tuple(values)).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # SQLite opens a WAL file in a read-only folder only if it is declared immutable
            immutable = "" if os.access(self.folder, os.W_OK) else "&immutable=1"
            address = f"file:{quote(str(self._path))}?mode=ro{immutable}"
            self._db = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.set_progress_handler(lambda: time.monotonic() > self._deadline, PROGRESS_STEPS)
            self._db.execute("PRAGMA query_only = ON")
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            self._require_plain_tables()
        return self._db

    def _require_plain_tables(self) -> None:
        """A run writes plain tables. A view, a trigger or a virtual table could compute for ever."""
        assert self._db is not None
        other = "type = 'view' OR type = 'trigger' OR sql LIKE 'CREATE VIRTUAL%'"
        if self._db.execute(f"SELECT 1 FROM sqlite_master WHERE {other} LIMIT 1").fetchone():
            raise sqlite3.DatabaseError("it has views, triggers or virtual tables, which no run writes")

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
                version = int((snapshot.get("buffer") or {}).get("newest_version", -1))  # at that time
                self.snapshots.add(at, row["step"], self._snapshot_reader.values(at, snapshot, version))

    def _refresh_metrics(self) -> None:
        """Read metrics.jsonl, for a run without a history."""
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if self._is_usable("metrics.jsonl") else 0
        if size == self._metrics_size:
            return
        self._forget()
        self._metrics_size = size
        began = path.stat().st_mtime if size else 0.0
        rows: list[Mapping[str, Any]] = list(parse_lines(self._content("metrics.jsonl").decode())) if size else []
        lasted = rows[-1].get("elapsed_s", 0.0) if rows else 0.0
        for row in rows:
            at = began - lasted + row.get("elapsed_s", 0.0)
            self.learner.add(at, row["step"], learner_values(row), row.get("sampled_step"))
