"""A run under test in a soak: what its parts are, how far they are, and what it tells."""

import json
import os
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import redis

from buffer.server.connect import connect
from buffer.server.redis_server import url_of_running
from buffer.store.keys import Keys
from deploy.artifacts.run_folder import RunFolder
from deploy.telemetry.recorder import FILE
from tests.support.processes import Command

TITLES = {
    "actor": "ray::ActorProcess",
    "reward": "ray::RewardProcess",
    "learner": "ray::LearnerProcess",
    "store": "ray::AdapterStore",
}
TAIL_BYTES = 20_000


class SoakedRun:
    """The run in `folder` that `command` trains."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.keys = Keys(RunFolder.open(folder).name)
        self.client: redis.Redis = connect(url_of_running(folder / "buffer"))

    def pid(self, part: str) -> int:
        """Process id of a part; 0 while it has none."""
        if part == "redis":
            return int(self.client.info("server")["process_id"])  # type: ignore[index]
        return max(self.command.pids(TITLES[part]), default=0)

    def newest_row(self) -> dict[str, Any]:
        """The newest whole line of metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        row: dict[str, Any] = json.loads(whole[-1]) if whole else {"step": 0, "version": 0}
        return row

    def ready(self) -> dict[str, int]:
        """Role -> number of processes that work, as the driver sees it."""
        ready: dict[str, int] = json.loads((self.folder / "members.json").read_text())
        return ready

    def counter(self, name: str) -> int:
        """A counter of the buffer."""
        return int(self.client.hget(self.keys.counters, name) or 0)  # type: ignore[arg-type]

    def driver_bytes(self) -> int:
        """Resident memory of the driver, bytes."""
        return int(psutil.Process(self.command.process.pid).memory_info().rss)

    def messages(self) -> list[tuple[float, str]]:
        """(Unix time, text) of what it told, each once: its log, and the quarantine in its events."""
        log = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        told = [(datetime.fromisoformat(row["time"]).timestamp(), row["message"]) for row in log]
        with sqlite3.connect(f"file:{self.folder / FILE}?mode=ro", uri=True) as history:
            return told + history.execute("SELECT at, data FROM events WHERE kind = 'quarantine'").fetchall()
