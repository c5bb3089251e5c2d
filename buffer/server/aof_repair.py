"""Repair of the append-only file of a run's own server: cut off garbage that a power cut or a bad disk left at its end.

A file that merely ends too early needs no repair: the server drops the last command by itself. Our writes are
transactions or scripts, so wherever the file is cut, the buffer has the state after one of its operations.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from buffer.errors import StoreError

DAMAGED = "Bad file format reading the append only file"
"""The log message of Redis 6.2 to Valkey 9 for a file that needs this repair."""
CHECK_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class AofRepair:
    """The result of a repair."""

    file: Path
    cut_bytes: int
    """0: the file was undamaged."""
    kept_bytes: int
    backup: Path | None
    """A copy of the damaged file; None where nothing was cut."""


def repair_aof(folder: Path, binary: Path) -> AofRepair:
    """Cut the append-only file in `folder` after its last whole command; the server, `binary`, must not be running.

    The damaged file is kept next to it. Raise StoreError without an append-only file, or if the server's check fails.
    """
    file = _newest_part(folder)
    before, backup = file.stat().st_size, file.with_name(f"{file.name}.damaged")
    while backup.exists():
        backup = backup.with_name(f"{backup.name}.damaged")
    shutil.copy2(file, backup)
    # A server binary is also the checker: the name it is called by decides. It does not get the manifest, because
    # Valkey 9.1's checker does not know the first bytes of Valkey's own base file.
    check = subprocess.run(
        ["redis-check-aof", "--fix", str(file)],
        executable=binary,
        input=b"y\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=CHECK_LIMIT_S,
        check=False,
    )
    if check.returncode != 0:
        raise StoreError(
            f"{file} can't be repaired; a copy is kept as {backup.name}. Output of the check by {binary.name}:\n"
            f"{check.stdout[-1000:].decode(errors='replace')}"
        )
    kept = file.stat().st_size
    if kept == before:
        backup.unlink()
    return AofRepair(file, before - kept, kept, backup if kept < before else None)


def _newest_part(folder: Path) -> Path:
    """The file that commands are appended to: Redis 6.2 has one, later servers a folder with a manifest."""
    manifest, single = folder / "appendonlydir" / "appendonly.aof.manifest", folder / "appendonly.aof"
    if manifest.exists():
        parts = re.findall(r"^file (\S+) seq \d+ type i", manifest.read_text(), re.MULTILINE)
        if parts and Path(parts[-1]).name == parts[-1]:
            return manifest.with_name(parts[-1])
    elif single.exists():
        return single
    raise StoreError(f"there is no append-only file to repair in {folder}")
