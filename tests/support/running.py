"""`tributary dashboard` in a separate process, as users start it."""

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
_ADDRESS = re.compile(r"Dashboard: (http://\S+?/)(#token=\S+)?")
_TOKEN = re.compile(r"Token: (\S+)")


@dataclass(frozen=True, slots=True)
class Running:
    """A dashboard that accepts connections."""

    url: str
    """Ends with a slash."""
    token: str | None
    process: subprocess.Popen[str]

    @property
    def cpu_s(self) -> float:
        """CPU time of the process, s."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def running(*arguments: str, port: int = 0, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """Start a dashboard with these arguments; stop it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "dashboard", "--port", str(port), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", "TRIBUTARY_DASHBOARD_TOKEN": "", **(environment or {})},
    )
    assert process.stdout is not None
    try:
        first_line = process.stdout.readline()
        address = _ADDRESS.search(first_line)
        assert address, f"printed {first_line!r}, which has no address"
        needs_token = "--host" in arguments and not (environment or {}).get("TRIBUTARY_DASHBOARD_TOKEN")
        token = _TOKEN.search(process.stdout.readline()) if needs_token else None
        yield Running(address[1], token[1] if token else None, process)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
