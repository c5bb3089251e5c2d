"""How often a process has died lately, how long its next start waits, and when it starts no more."""

from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from buffer.restart_budget import RESTART_WINDOW_S

SHORT_LIFE_S = 120.0
"""A process that was ready, and lived longer, was in no crash loop, s."""
MAX_RESTART_DELAY_S = 60.0
MAX_DEATHS = 10_000


class Deaths(NamedTuple):
    """Deaths of one process before a start."""

    recent: int
    """Within RESTART_WINDOW_S, or in a row, however long ago."""
    in_a_row: int
    """The newest ones, each of a life that was short or never came to be ready."""


@dataclass(slots=True)
class Lives:
    """The starts and deaths of one process; times in s, by a clock of the caller's."""

    starts: int = 0
    started_at: float | None = None
    was_ready: bool = False
    deaths: list[tuple[float, bool]] = field(default_factory=list)
    """(time, whether the life was short)"""

    def start(self, now: float) -> Deaths:
        """Count a start; the process has died since the start before it."""
        if self.started_at is not None:
            is_short = not self.was_ready or now - self.started_at < SHORT_LIFE_S
            self.deaths = [*self.deaths, (now, is_short)][-MAX_DEATHS:]
        self.starts, self.started_at, self.was_ready = self.starts + 1, now, False
        recent = sum(now - at < RESTART_WINDOW_S for at, _ in self.deaths)
        in_a_row = len(list(takewhile(bool, (is_short for _, is_short in reversed(self.deaths)))))
        return Deaths(max(recent, in_a_row), in_a_row)


def restart_delay_s(deaths: Deaths) -> float:
    """0, 0, 1, 2, 4 ... s by the number of deaths in a row, at most MAX_RESTART_DELAY_S."""
    return min(2.0 ** (deaths.in_a_row - 2), MAX_RESTART_DELAY_S) if deaths.in_a_row > 1 else 0.0
