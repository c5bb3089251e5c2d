"""An engine that tells how far it is: an evaluation draws for minutes, and nobody should wonder whether it hangs."""

import time
from collections.abc import Callable
from pathlib import Path

from actors.engine import Engine
from actors.segments import Sampled
from deploy.driver.preflight import Checked
from deploy.formatting import clock

EVERY_S = 10.0
"""Pause between two lines, s."""


class DrawingProgress:
    """Says how many strings are drawn, how fast, and how long the rest will take."""

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a clock, s."""
        self._say, self._now = say, now
        self._idle, self._drawn, self._began, self._told = True, 0, now(), now()

    def step(self, finished: int, waiting: int) -> None:
        """An engine has finished so many strings in one step, and has so many still to draw."""
        now = self._now()
        if self._idle:  # these are of another model or behaviour than those before
            self._drawn, self._began, self._told = 0, now, now
        self._idle = not waiting
        self._drawn += finished
        if now - self._told >= EVERY_S:
            self._told = now
            rate = self._drawn / (now - self._began)
            pace = f" ({rate:.3g}/s, {clock(waiting / rate)} left)" if rate else ""
            self._say(f"{self._drawn:,} of {self._drawn + waiting:,} strings drawn{pace}")


class ReportingEngine(Engine):
    """The engine of a recipe. While it draws, `say` gets a line every EVERY_S seconds."""

    def __init__(self, checked: Checked, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        """Start it; takes tens of seconds. `folder` receives adapter files."""
        config = checked.config.actors
        super().__init__(checked.spec, config, folder, seed, config.gpus > 0, checked.task.tool)
        self._progress = DrawingProgress(say)

    def step(self) -> list[Sampled]:
        """As Engine.step."""
        finished = super().step()
        self._progress.step(len(finished), self.in_flight)
        return finished
