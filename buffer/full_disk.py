"""A full disk is waited for: whoever frees some space lets the run go on."""

import errno
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from buffer.errors import WaitTimeout
from buffer.named_wait import NamedWait

T = TypeVar("T")
log = logging.getLogger("tributary")

LIMIT_S, POLL_S = 1800.0, 0.5
"""Longest wait, and the pause between two attempts, s."""
FULL = (errno.ENOSPC, errno.EDQUOT)
MIN_FREE_BYTES = 2**20
"""Below it a disk counts as full."""


def is_full(folder: Path) -> bool:
    """True if a disk has no room for the next line or record."""
    return shutil.disk_usage(folder).free < MIN_FREE_BYTES


def wait_of(folder: Path) -> NamedWait:
    """The wait for room on the disk of `folder`, which begins now."""
    return NamedWait(f"the disk of {folder} is full", LIMIT_S, lambda: "free some space, and the run goes on")


def when_there_is_room(write: Callable[[], T], folder: Path) -> T:
    """The result of `write`, which is repeated while the disk of `folder` is full; a second call must undo what the
    first began. The error of a full disk after LIMIT_S, every other OSError at once."""
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
            try:
                wait.check()
            except WaitTimeout as timeout:
                raise OSError(error.errno, str(timeout), str(folder)) from error
            time.sleep(POLL_S)
