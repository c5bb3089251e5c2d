"""Run the real command in a process of its own, and find the processes that it leaves behind."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import psutil

ROOT = Path(__file__).parents[2]
MARK = "TRIBUTARY_TEST_MARK"


def until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Return once `condition` holds; AssertionError that names `what` after `limit_s` seconds."""
    tick, deadline = threading.Event(), time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:.0f} s"
        tick.wait(0.1)


class Command:
    """`python -m deploy.cli ARGS` with a mark in its environment that all its descendants inherit."""

    started: ClassVar[list["Command"]] = []
    """Commands that tests/conftest.py has not ended yet."""

    def __init__(self, *args: str, folder: Path = ROOT, **environment: str) -> None:
        self.mark = uuid4().hex
        self.started.append(self)
        self._remembered: set[psutil.Process] = set()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *args],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=clean | {"PYTHONPATH": str(ROOT), MARK: self.mark} | environment,
        )  # fmt: skip

    def finish(self, limit_s: float = 400.0) -> str:
        """Wait until it has ended; returns its output."""
        output, _ = self.process.communicate(timeout=limit_s)
        return output

    def kill(self) -> None:
        """kill -9 the command itself, and nothing else."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def end(self) -> None:
        """kill -9 the command and its descendants: leftovers of a failed test must not slow the next ones down."""
        for process in {*self.family(), *marked(self.mark)}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def family(self) -> list[psutil.Process]:
        """The command and all its living descendants, those of earlier calls included.

        Servers that rewrite their title lose their environment, so they are found by parentage; and once their parent is
        gone, only because an earlier call remembered them.
        """
        try:
            root = psutil.Process(self.process.pid)
            self._remembered |= {root, *root.children(recursive=True)}
        except psutil.NoSuchProcess:
            pass
        return [p for p in self._remembered if _is_alive(p)]

    def alive(self) -> list[str]:
        """Command lines of the living processes of the family, and of all others that carry the mark."""
        return [title for p in {*self.family(), *marked(self.mark)} if (title := _title(p))]

    def pids(self, name: str) -> list[int]:
        """Process ids of the family whose command line contains `name`."""
        return [p.pid for p in self.family() if name in _title(p)]


def marked(mark: str) -> list[psutil.Process]:
    """All living processes with this mark in their environment."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and _is_alive(process):
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def _title(process: psutil.Process) -> str:
    """Command line of a living process; empty for one that is gone."""
    try:
        return (" ".join(process.cmdline()) or process.name()) if _is_alive(process) else ""
    except psutil.NoSuchProcess:
        return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The learner's rows in metrics.jsonl so far, one per step."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
