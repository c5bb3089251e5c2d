"""Events of a run's processes (ready, restarted, scaled, failed) until the driver reports them."""

from dataclasses import dataclass
from typing import Literal

MAX_TROUBLES = 10


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One event."""

    kind: Literal["joined", "ended", "restart", "scaled", "trouble"]
    role: str
    """actor, reward, learner, adapter store or redis"""
    text: str


class ProcessEvents:
    """Collects events; remembers the newest troubles for the live view."""

    def __init__(self) -> None:
        self._events: list[ProcessEvent] = []
        self.troubles: list[str] = []
        """The newest MAX_TROUBLES failures to start, as sentences."""

    def add(self, event: ProcessEvent) -> None:
        """Collect an event."""
        self._events.append(event)
        if event.kind == "trouble":
            self.troubles = [*self.troubles, event.text][-MAX_TROUBLES:]

    def drain(self) -> list[ProcessEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events
