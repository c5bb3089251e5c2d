"""Run the real command in a process of its own, and see what it leaves behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psutil

ROOT = Path(__file__).parent.parent
MARK = "TRIBUTARY_TEST_MARK"


def until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Return once `condition` holds; AssertionError that names `what` after `limit_s`."""
    tick, deadline = threading.Event(), time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:.0f} s"
        tick.wait(0.1)


class Command:
    """`python -m deploy.cli ARGS` with a mark in its environment that all its descendants inherit."""

    def __init__(self, *args: str, folder: Path = ROOT, **environment: str) -> None:
        self.mark = uuid4().hex
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *args],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=clean | {"PYTHONPATH": str(ROOT), MARK: self.mark} | environment,
        )  # fmt: skip

    def finish(self, limit_s: float = 400.0) -> str:
        """What it printed, once it has ended."""
        output, _ = self.process.communicate(timeout=limit_s)
        return output

    def alive(self) -> list[str]:
        """Command lines of all living processes that carry the mark, the command itself included."""
        return [" ".join(p.info["cmdline"] or [])[:150] for p in marked(self.mark)]

    def pids(self, name: str) -> list[int]:
        """Living processes with the mark whose name or command line holds `name`."""
        return [p.pid for p in marked(self.mark) if name in " ".join([p.info["name"], *(p.info["cmdline"] or [])])]


def marked(mark: str) -> list[psutil.Process]:
    """All living processes with this mark in their environment."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        try:
            if process.environ().get(MARK) == mark and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
