"""A full disk is waited for: whoever frees some space lets the run go on."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from buffer.named_wait import NamedWait

T = TypeVar("T")
log = logging.getLogger("tributary")

LIMIT_S, POLL_S = 240.0, 0.5
"""Longest wait, and the pause between two attempts, s. Processes that wait for one another do so for 300 s and more: a
longer wait here would end theirs."""
FULL = (errno.ENOSPC, errno.EDQUOT)
MIN_FREE_BYTES = 2**20
"""Below it a disk counts as full."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk; nothing of it is left where the disk is full."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # others need the room
        raise


def is_full(folder: Path) -> bool:
    """True if a disk has no room for the next line or record."""
    return shutil.disk_usage(folder).free < MIN_FREE_BYTES


def wait_of(folder: Path) -> NamedWait:
    """The wait for room on the disk of `folder`, which begins now."""
    return NamedWait(f"the disk of {folder} is full", LIMIT_S, lambda: "free some space, and the run goes on")


def when_there_is_room(write: Callable[[], T], folder: Path) -> T:
    """The result of `write`, which is repeated while the disk of `folder` is full; a second call must undo what the
    first began. WaitTimeout after LIMIT_S; every other OSError at once."""
    wait: NamedWait | None = None
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            if wait is None:
                wait = wait_of(folder)
                log.warning("%s", wait.sentence())
            wait.check()
            time.sleep(POLL_S)
