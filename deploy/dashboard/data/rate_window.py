"""Rates over a sliding window: a counter that jumps by a batch has no rate between two readings a second apart."""

from collections import deque
from collections.abc import Mapping

from deploy.telemetry.figures import FIGURES, rates_in
from deploy.telemetry.snapshot import rates

WINDOW_S = 20.0
SHORTEST_S = 4.0
"""A shorter window, at the start or after a restart, tells less than it misleads."""


class RateWindow:
    """The readings of one process, or of the buffer, in the newest WINDOW_S seconds, and one before them."""

    def __init__(self, room: str, begins_at_0: bool = False) -> None:
        """`room` names the figures. `begins_at_0`: the clock and all totals began at 0."""
        self._room = room
        self._readings: deque[tuple[float, Mapping[str, float]]] = deque([(0.0, {})] if begins_at_0 else [])

    def add(self, clock: float, totals: Mapping[str, float]) -> dict[str, float | None]:
        """Rate -> its value over the window that ends with this reading; shares are at most 1.

        `clock` [s] grows with `totals`. Where a total or the clock fell, as with a restart, all are None and the window
        begins again; while it is shorter than SHORTEST_S there are none.
        """
        readings = self._readings
        if readings and (clock < readings[-1][0] or _has_fallen(self._room, readings[-1][1], totals)):
            readings.clear()
            readings.append((clock, totals))
            return dict.fromkeys(rates_in(self._room))
        readings.append((clock, totals))
        while len(readings) > 2 and readings[1][0] <= clock - WINDOW_S:
            readings.popleft()
        began, before = readings[0]
        if clock - began < SHORTEST_S:
            return {}
        changes = rates(self._room, before or dict.fromkeys(totals, 0.0), totals, clock - began)
        return {name: _limited(f"{self._room}.{name}", value) for name, value in changes.items()}


def _has_fallen(room: str, before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    return any(after.get(total, 0.0) < before.get(total, 0.0) for total in rates_in(room).values())


def _limited(name: str, value: float | None) -> float | None:
    """A share at most 1: time in an engine counts when its call returns, and that may be longer than the window."""
    is_share = any(figure.unit == "share" for figure in (FIGURES.get(name), FIGURES.get(_pattern(name))) if figure)
    return min(value, 1.0) if value is not None and is_share else value


def _pattern(name: str) -> str:
    """actor.busy -> actor.NAME.busy."""
    room, _, field = name.partition(".")
    return f"{room}.NAME.{field}"
