"""The folder in which Ray, started by a run on this machine, keeps logs and sockets. Imports nothing of Ray."""

import os
import stat
from pathlib import Path

from buffer.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux: sun_path of unix(7) holds 108 bytes, with the final zero."""
_SOCKET = "session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest socket path below Ray's folder (ray/_private/node.py, 2.60)."""
FIX = "set TMPDIR (or RAY_TMPDIR) to a short path such as /tmp"


def ray_folder() -> Path:
    """The folder of Ray's sessions. RAY_TMPDIR comes before TMPDIR.

    A run's own Ray has one in a private folder; a cluster that runs already (RAY_ADDRESS) has Ray's default.
    """
    parent = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    return parent / "ray" if os.environ.get("RAY_ADDRESS") else parent / f"ray-{os.getuid()}" / "ray"


def make_ray_folder() -> Path:
    """Create the folder, in one that only this user can enter, and return it.

    Ray makes its folder and all that is in it writable for everyone. ConfigError where another user owns the private
    folder, who could replace Ray's sockets.
    """
    private = ray_folder().parent
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigError(
            f"{private} is a link or another user's folder, and Ray's sockets must be reachable for this user alone: "
            "remove it, or set RAY_TMPDIR to a folder of your own."
        )
    private.chmod(0o700)
    return ray_folder()


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
