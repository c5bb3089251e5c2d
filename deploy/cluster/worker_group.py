"""The processes of one role, which can be added and removed while the run goes on.

Ray restarts a process that dies, on another node if its own is gone. One that has died before waits a while before it
loads, and one that keeps dying refuses to: see deploy/cluster/process_setup.py.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from buffer.errors import TributaryError
from deploy.cluster.death import LOGS, cause_of, how_it_died
from deploy.cluster.ray_calls import Call, Handle
from deploy.cluster.root_cause import root_cause

LEAVE_LIMIT_S = 30.0
"""A process that is draining is killed after this time, s."""


@dataclass(frozen=True, slots=True)
class _Draining:
    handle: Handle
    call: Call
    since: float


class WorkerGroup:
    """Members by index. Indices are never reused: a name identifies one process for the whole run."""

    def __init__(self, role: str, start: Callable[[int], Handle], count: int) -> None:
        """`start` makes a process: its `ready` returns once it can work, its `leave` once it is drained."""
        self.role = role
        self._start = start
        self._next = 0
        self.members: dict[int, Handle] = {}
        """The ready processes."""
        self._starting: dict[int, tuple[Handle, Call]] = {}
        self._draining: dict[int, _Draining] = {}
        self.resize(count)

    @property
    def requested(self) -> int:
        """Number of processes requested: the ready ones and those that start."""
        return len(self.members) + len(self._starting)

    @property
    def calls(self) -> list[Call]:
        """One call for each starting process; it returns when the process is ready."""
        return [call for _, call in self._starting.values()]

    def resize(self, count: int) -> list[int]:
        """Start processes, or drain the youngest; returns the ready ones that now drain. `poll` does the rest."""
        drained: list[int] = []
        while self.requested < count:
            handle = self._start(self._next)
            self._starting[self._next] = handle, handle.ready.options(max_task_retries=0).remote()
            self._next += 1
        while self.requested > count:
            if self._starting:
                handle, _ = self._starting.pop(max(self._starting))
                ray.kill(handle)
                continue
            number = max(self.members)
            handle = self.members.pop(number)
            self._draining[number] = _Draining(handle, handle.leave.remote(), time.monotonic())
            drained.append(number)
        return drained

    def poll(self) -> tuple[list[int], list[str]]:
        """(indices that have become ready, failures to start); kills the processes that are drained."""
        joined, failures = [], []
        for number, (handle, call) in list(self._starting.items()):
            if not ray.wait([call], timeout=0)[0]:
                continue
            del self._starting[number]
            try:
                ray.get(call)
            except ray.exceptions.RayError as error:
                failures.append(f"{self.role}-{number} failed to start; not retrying: {cause_of(error, self.role)}")
                continue
            self.members[number] = handle
            joined.append(number)
        for number, draining in list(self._draining.items()):
            is_done = bool(ray.wait([draining.call], timeout=0)[0])
            if is_done or time.monotonic() - draining.since > LEAVE_LIMIT_S:
                del self._draining[number]
                ray.kill(draining.handle)
        return joined, failures

    def drop(self, number: int, error: ray.exceptions.ActorDiedError, last_words: str) -> str:
        """Forget a ready process that Ray starts no more, and return a sentence on it. Raise it where none is ready.

        `last_words`: the error with which it ended; empty if it left none.
        """
        del self.members[number]
        name = f"{self.role}-{number}"
        how = f"ended with {last_words}" if last_words else how_it_died(str(error))
        cause = root_cause(error)
        if cause is None:
            cause = TributaryError(f"{name} {how}. {LOGS}")
        elif last_words:
            cause = TributaryError(f"{cause} The last time it ended with {last_words}")
        if not self.members:
            raise cause from error
        return f"{name} is not started again: {cause}"

    def all_handles(self) -> list[Handle]:
        """Handles of all processes: ready, starting and draining."""
        return [
            *self.members.values(),
            *(handle for handle, _ in self._starting.values()),
            *(draining.handle for draining in self._draining.values()),
        ]

    def names(self) -> list[str]:
        """Names of the ready processes, in order."""
        return [f"{self.role}-{number}" for number in sorted(self.members)]
