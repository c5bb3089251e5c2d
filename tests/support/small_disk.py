"""A disk of a few MiB that a test can fill."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, mib: int = 8) -> Iterator[Path]:
    """A disk below `folder`; skips the test where mounting is not allowed."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", disk]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk ({mounted.stderr.strip()})")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, kib: int) -> None:
    """Give it another size; one below what it holds is refused."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all room that is left."""
    file = disk / "filler"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(b"\0" * 4096)
    return file
