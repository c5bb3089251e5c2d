"""The folder in which Ray, started by a run on this machine, keeps logs and sockets. Imports nothing of Ray."""

import os
from pathlib import Path

from buffer.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux: sun_path of unix(7) holds 108 bytes, with the final zero."""
_SOCKET = "session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest socket path below Ray's folder (ray/_private/node.py, 2.60)."""
FIX = "set TMPDIR (or RAY_TMPDIR) to a short path such as /tmp"


def ray_folder() -> Path:
    """Its path; RAY_TMPDIR comes before TMPDIR."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def check_ray_folder() -> None:
    """Raise ConfigError where the paths of Ray's sockets would be too long, as below the TMPDIR of a batch system.

    With RAY_ADDRESS set, Ray runs already and nothing is checked.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    longest = len(os.fsencode(ray_folder() / _SOCKET.format(pid=os.getpid())))
    if longest > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"Ray's sockets in {ray_folder()} would have paths of {longest} bytes, and at most "
            f"{MAX_SOCKET_PATH_BYTES} are possible: {FIX}."
        )
