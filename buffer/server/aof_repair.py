"""Mend the append-only file of a run's own server: cut off what a power cut or a bad disk left behind its last command.

A file that merely ends too early needs none of this: the server leaves the last command out by itself. Our writes are
transactions or scripts, so whatever is cut off, the buffer is as it was after one of its operations.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from buffer.errors import StoreError

DAMAGED = "Bad file format reading the append only file"
"""What Redis 6.2 to Valkey 9 log of a file that needs this."""
CHECK_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done."""

    file: Path
    cut_bytes: int
    """0: it was in order."""
    kept_bytes: int
    backup: Path | None
    """The file as it was; None where nothing was cut."""


def mend(folder: Path, binary: Path) -> Mended:
    """Cut the append-only file in `folder` behind its last whole command; `binary` is the server's, which must not run.

    The damaged file is kept beside it. Raise StoreError where there is none, or the server's own check fails.
    """
    file = _newest_part(folder)
    before, backup = file.stat().st_size, file.with_name(f"{file.name}.damaged")
    while backup.exists():
        backup = backup.with_name(f"{backup.name}.damaged")
    shutil.copy2(file, backup)
    # A server binary is the checker too: it asks the name it is called by what it is to be. The manifest would be no
    # good: Valkey 9.1's checker does not know the first bytes of Valkey's own base file.
    done = subprocess.run(
        ["redis-check-aof", "--fix", str(file)],
        executable=binary,
        input=b"y\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=CHECK_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise StoreError(
            f"{file} can't be mended; it is kept as {backup.name} too. The check of {binary.name} said:\n"
            f"{done.stdout[-1000:].decode(errors='replace')}"
        )
    kept = file.stat().st_size
    if kept == before:
        backup.unlink()
    return Mended(file, before - kept, kept, backup if kept < before else None)


def _newest_part(folder: Path) -> Path:
    """The file that commands are appended to: Redis 6.2 has one, later servers a folder with a manifest."""
    manifest, single = folder / "appendonlydir" / "appendonly.aof.manifest", folder / "appendonly.aof"
    if manifest.exists():
        parts = re.findall(r"^file (\S+) seq \d+ type i", manifest.read_text(), re.MULTILINE)
        if parts and Path(parts[-1]).name == parts[-1]:
            return manifest.with_name(parts[-1])
    elif single.exists():
        return single
    raise StoreError(f"there is no append-only file to mend in {folder}")
