"""The NVIDIA GPUs of this machine, as the driver reports them. Nothing is imported or started on them."""

import subprocess
from dataclasses import dataclass

_LIMIT_S = 10.0
_QUERIES = ("name,memory.total,driver_version,compute_cap", "name,memory.total,driver_version")
"""Drivers before 510 don't know compute_cap."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card."""

    name: str
    memory: str
    """As the driver writes it, such as 81559 MiB; [N/A] where a GPU shares the machine's memory."""
    driver: str
    capability: str = ""
    """Such as 9.0; empty if the driver does not report it."""

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of memory; None where the driver gives no number."""
        number, _, unit = self.memory.partition(" ")
        return int(number) * 2**20 if number.isdecimal() and unit == "MiB" else None


def find_gpus() -> list[Gpu]:
    """All GPUs of this machine; empty without a driver."""
    for query in _QUERIES:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True).stdout
        except (subprocess.SubprocessError, OSError):
            continue
        rows = [[word.strip() for word in line.split(",")] for line in output.splitlines() if line.strip()]
        return [Gpu(*row) for row in rows if len(row) == len(query.split(","))]
    return []
