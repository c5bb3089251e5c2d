"""The processes of one role, which may be added and taken away while the run goes on.

A process that dies is started again by Ray, elsewhere if its node is gone, and waits a while before it loads when it
has died before: see deploy.cluster.ray_actors.
"""

import time
from collections.abc import Callable
from typing import Any

import ray

LEAVE_LIMIT_S = 30.0
"""One that was told to leave is ended after this, s."""


class WorkerGroup:
    """Members by number; numbers are never used twice, so a name means one process for ever."""

    def __init__(self, role: str, start: Callable[[int], Any], count: int) -> None:
        """`start` makes a number's process; its `ready` answers when it can work, its `leave` when it has ended."""
        self.role = role
        self._start = start
        self._numbers = 0
        self.members: dict[int, Any] = {}
        """Those that can work."""
        self._starting: dict[int, tuple[Any, Any]] = {}
        self._leaving: dict[int, tuple[Any, Any, float]] = {}
        self.resize(count)

    @property
    def wanted(self) -> int:
        """How many there are to be."""
        return len(self.members) + len(self._starting)

    @property
    def starting(self) -> int:
        """How many are not ready yet."""
        return len(self._starting)

    @property
    def calls(self) -> list[Any]:
        """Those that answer when a process that starts is ready."""
        return [call for _, call in self._starting.values()]

    def resize(self, count: int) -> list[int]:
        """Start some, or tell the youngest to leave; the numbers of ready ones that leave. See `tend`."""
        gone: list[int] = []
        while self.wanted < count:
            handle = self._start(self._numbers)
            self._starting[self._numbers] = handle, handle.ready.remote()
            self._numbers += 1
        while self.wanted > count:
            if self._starting:
                handle, _ = self._starting.pop(max(self._starting))
                ray.kill(handle)
                continue
            number = max(self.members)
            handle = self.members.pop(number)
            self._leaving[number] = handle, handle.leave.remote(), time.monotonic()
            gone.append(number)
        return gone

    def tend(self) -> tuple[list[int], list[str]]:
        """(numbers of those that have become ready, what went wrong); ends those that have left."""
        joined, troubles = [], []
        for number, (handle, call) in list(self._starting.items()):
            if not ray.wait([call], timeout=0)[0]:
                continue
            del self._starting[number]
            try:
                ray.get(call)
            except ray.exceptions.RayError as error:
                troubles.append(f"{self.role}-{number} could not start and is given up: {error}")
                continue
            self.members[number] = handle
            joined.append(number)
        for number, (handle, call, since) in list(self._leaving.items()):
            if ray.wait([call], timeout=0)[0] or time.monotonic() - since > LEAVE_LIMIT_S:
                del self._leaving[number]
                ray.kill(handle)
        return joined, troubles

    def all_handles(self) -> list[Any]:
        """All processes there are, whatever they do."""
        return [
            *self.members.values(),
            *(h for h, _ in self._starting.values()),
            *(h for h, _, _ in self._leaving.values()),
        ]

    def names(self) -> list[str]:
        """Of those that can work, in order."""
        return [f"{self.role}-{number}" for number in sorted(self.members)]
