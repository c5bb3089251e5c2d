"""The tables of history.sqlite: opens them, adds rows, keeps them within bounds.

Names of tables, columns and JSON keys are the file format of SCHEMA_VERSION.
"""

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.artifacts.json_files import plain
from deploy.telemetry.event_detector import Event

SCHEMA_VERSION = 2
"""2: snapshots in a table of that name. A history of another version is neither read nor changed."""
BUSY_S = 2.0
MAX_BYTES = {"learner": 80 * 2**20, "snapshots": 40 * 2**20, "samples": 48 * 2**20, "events": 4 * 2**20}
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (id TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fields (prompt_id TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS learner (id INTEGER PRIMARY KEY, at REAL, step INTEGER, data TEXT);
CREATE TABLE IF NOT EXISTS snapshots (id INTEGER PRIMARY KEY, at REAL, step INTEGER, data TEXT);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at REAL, step INTEGER,
  kind TEXT, level TEXT, who TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS samples (id INTEGER PRIMARY KEY, at REAL, step INTEGER, phase TEXT, prompt_id TEXT,
  behaviour TEXT, fresh INTEGER, version INTEGER, log_q REAL, log_reward REAL, text TEXT, data TEXT);
CREATE INDEX IF NOT EXISTS samples_of_prompt ON samples (prompt_id, phase);
CREATE INDEX IF NOT EXISTS samples_by_reward ON samples (log_reward);
"""


class HistoryStore:
    """One connection that writes. Methods raise what sqlite3 raises; call `commit` to make rows visible."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        if (version := self._schema()) not in (None, SCHEMA_VERSION):
            self.abandon()
            raise sqlite3.DatabaseError(
                f"its tables are of version {version} and this release writes version {SCHEMA_VERSION}; move the file "
                "away to record a new one"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # the last seconds may be lost with the power, not the file
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN IMMEDIATE")
        self.meta("schema", SCHEMA_VERSION)
        self._bytes = {table: self._size(table) for table in MAX_BYTES}
        self._id = max(self._newest(table) for table in MAX_BYTES)

    def begin(self, after_step: int) -> None:
        """Begin a session: delete what it will write again. Readers see a new generation, and read everything."""
        self._db.execute("DELETE FROM samples WHERE phase <> 'train'")  # a resumed run is judged again
        self.cut(after_step)

    def cut(self, after_step: int) -> None:
        """Delete the learner's rows beyond `after_step`, which come again, and start a new generation.

        What happened meanwhile stays, at that step: events, and what actors, workers and buffer did.
        """
        for table in ("learner", "samples"):
            self._db.execute(f"DELETE FROM {table} WHERE step > ?", (after_step,))
            self._bytes[table] = self._size(table)
        for table in ("snapshots", "events"):
            self._db.execute(f"UPDATE {table} SET step = ? WHERE step > ?", (after_step, after_step))
        self.meta("generation", 1 + (self.read_meta("generation") or 0))

    def read_meta(self, key: str) -> Any:
        """One value of `meta`; None where the key is absent."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def meta(self, key: str, value: Any) -> None:
        """Set one value of `meta`."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _json(value)))

    def prompts(self, texts: Mapping[str, str]) -> None:
        """Replace the prompts: id -> text."""
        self._db.execute("DELETE FROM prompts")
        rows = [(_text(name), _text(text)) for name, text in texts.items()]
        self._db.executemany("INSERT OR REPLACE INTO prompts VALUES (?, ?)", rows)

    def fields(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the data that the task has of prompts: id -> field -> value."""
        self._db.execute("DELETE FROM fields")
        rows = [(_text(name), _json(values)) for name, values in fields.items() if values]
        self._db.executemany("INSERT OR REPLACE INTO fields VALUES (?, ?)", rows)

    def learner(self, at: float, step: int, figures: Mapping[str, Any]) -> None:
        """The figures of a step."""
        self._add("learner", (at, step), _json(_short(figures)))

    def snapshot(self, at: float, step: int, row: Mapping[str, Any]) -> None:
        """The run's state, as `as_row` in deploy/telemetry/snapshot.py gives it."""
        self._add("snapshots", (at, step), _json(_short(row)))

    def event(self, at: float, step: int, event: Event) -> None:
        """Something that happened."""
        self._add("events", (at, step, event.kind, event.level, _text(event.who)), _text(event.text))

    def sample(self, at: float, step: int, row: Mapping[str, Any]) -> None:
        """A noted row (learner/step_samples.py) with `pieces` and `phase`, or a judged one."""
        text = _text("".join(row["pieces"]))
        columns = (
            *(at, step, row["phase"], _text(row["prompt_id"]), _text(row["behaviour"]), int(row.get("fresh", False))),
            *(row.get("policy_version"), row["log_q"], row["log_reward"], text),
        )
        self._add("samples", columns, _json(row))

    def commit(self) -> None:
        """Make all rows since the last call visible, at once."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN IMMEDIATE")

    def thin(self) -> None:
        """Delete every second row of the older half of each table that exceeds its limit."""
        for table, max_bytes in MAX_BYTES.items():
            condition = "phase = 'train'" if table == "samples" else "TRUE"  # judged samples stay
            numbered = f"SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS n, COUNT(*) OVER () AS total FROM {table}"
            older = f"SELECT id FROM ({numbered} WHERE {condition}) WHERE n % 2 = 0 AND n <= total / 2"
            while self._bytes[table] > max_bytes:
                deleted = self._db.execute(f"DELETE FROM {table} WHERE id IN ({older})").rowcount
                self._bytes[table] = self._size(table)
                self.commit()
                if not deleted:  # a handful of huge rows
                    break

    def close(self) -> None:
        """Write everything into the one file, and remove its WAL files unless a reader has them open."""
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def abandon(self) -> None:
        """Close after a failure; uncommitted rows are lost."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _schema(self) -> Any:
        """Version of the tables in the file; None for a new file."""
        has_meta = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        return self.read_meta("schema") if has_meta else None

    def _add(self, table: str, columns: tuple[Any, ...], data: str) -> None:
        self._id += 1
        marks = ", ".join("?" * (len(columns) + 2))
        self._db.execute(f"INSERT INTO {table} VALUES ({marks})", (self._id, *columns, data))
        self._bytes[table] += len(data)

    def _size(self, table: str) -> int:
        return int(self._db.execute(f"SELECT COALESCE(SUM(LENGTH(data)), 0) FROM {table}").fetchone()[0])

    def _newest(self, table: str) -> int:
        return int(self._db.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0])


def _json(value: Any) -> str:
    """Compact ASCII, so that any string of a model can be kept; null where a figure is not finite."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":"))


def _short(value: Any) -> Any:
    """Floats rounded to six digits: enough for a plot."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(text: str) -> str:
    """Text as UTF-8, which SQLite needs: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()
