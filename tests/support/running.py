"""`tributary dashboard` as a process of its own, as people start it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
_SAID = re.compile(r"Dashboard: (http://\S+/)")
_TOKEN = re.compile(r"Token: (\S+)")


@dataclass(frozen=True, slots=True)
class Running:
    """One that listens."""

    url: str
    """With a slash at its end."""
    token: str | None
    process: subprocess.Popen[str]

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def running(*arguments: str, port: int = 0, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """A dashboard with these arguments, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "dashboard", "--port", str(port), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", **(environment or {})},
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        found = _SAID.search(first)
        assert found, f"it said {first!r} and no address"
        needs_token = "--host" in arguments and not (environment or {}).get("TRIBUTARY_DASHBOARD_TOKEN")
        token = _TOKEN.search(process.stdout.readline()) if needs_token else None
        yield Running(found[1], token[1] if token else None, process)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
