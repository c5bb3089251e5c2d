"""Ends processes that do not answer: a hung process is not dead, so Ray alone would wait for it for ever."""

import ray

from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.ray_calls import Handle

SLOW_S = 15.0
"""A process that has not answered for this long is a named wait, s."""
SECTIONS = {"actor": "actors", "reward": "rewards"}
"""Role -> section of the recipe."""


class Watchdog:
    """Watches the processes of one role. One that is ended is started again by Ray, within its max_restarts."""

    def __init__(self, role: str, limit_s: float, events: ProcessEvents) -> None:
        """`limit_s`: time after which a silent process is ended, s."""
        self._role, self._limit_s, self._events = role, limit_s, events

    def end_if_hung(self, number: int, process: Handle, silent_s: float) -> bool:
        """True if the process was ended, because it has not answered for `silent_s`."""
        if silent_s <= self._limit_s:
            return False
        ray.kill(process, no_restart=False)  # reaches a stopped process, too
        text = f"{self._role}-{number} did not answer for {silent_s:.0f} s: it was ended and starts again"
        self._events.add(ProcessEvent("restart", self._role, text))
        return True

    def sentences(self, number: int, silent_s: float) -> list[str]:
        """The named wait for a process that has not answered for `silent_s`, if that is long."""
        if silent_s <= SLOW_S:
            return []
        return [
            f"{self._role}-{number} has not answered for {silent_s:.0f} s; it is ended after {self._limit_s:g} s "
            f"({SECTIONS[self._role]}.advanced.silent_limit_s)"
        ]
