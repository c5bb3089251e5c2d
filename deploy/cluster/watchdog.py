"""A process that hangs is first a named wait and then ended: Ray alone would wait for it for ever."""

from dataclasses import dataclass

import ray

from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.ray_calls import Handle

SLOW_S = 15.0
"""A process that has not answered for this long is a named wait, s."""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """The limit of one role."""

    role: str
    """As in the names of its processes, such as actor-0."""
    setting: str
    """Where the recipe says the limit."""
    limit_s: float
    events: ProcessEvents

    def ends(self, number: int, process: Handle, silent_s: float) -> bool:
        """True if the process was silent for too long and is ended; Ray starts it again."""
        if silent_s <= self.limit_s:
            return False
        ray.kill(process, no_restart=False)  # reaches a stopped process, too
        text = f"{self.role}-{number} did not answer for {silent_s:.0f} s: it was ended"
        self.events.add(ProcessEvent("ended", self.role, text))
        return True

    def waits(self, number: int, silent_s: float) -> list[str]:
        """The named wait for a process that is slow to answer, if it is."""
        if silent_s <= SLOW_S:
            return []
        name = f"{self.role}-{number} does not answer"
        return [f"{name}: for {silent_s:.0f} s; it is ended after {self.limit_s:g} s ({self.setting})"]
