"""What the actors did, summed up: their own counts start anew when they are started again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class ActorTotals:
    """Sums over actors whose own counts start anew when they are started again."""

    def __init__(self) -> None:
        self._before: Counter[tuple[str, str]] = Counter()
        self._newest: dict[tuple[str, str], int] = {}
        self.canary_difference_max = 0.0
        self.engine_busy = float("nan")
        """Share of their time that the actors' engines compute, a mean over actors."""

    def count(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """Take in what actors say of themselves now; one that says nothing keeps what it said last."""
        if statuses:
            self.engine_busy = float(np.mean([status["engine_s"] / status["seconds"] for status in statuses]))
        for status in statuses:
            self.canary_difference_max = max(self.canary_difference_max, status["canary_difference_max"])
            for figure in ("trajectories", "tokens"):
                key = (status["name"], figure)
                if status[figure] < self._newest.get(key, 0):
                    self._before[key] += self._newest[key]
                self._newest[key] = status[figure]

    def total(self, figure: str) -> int:
        """Of `trajectories` or `tokens`, over all actors and all their lives."""
        return sum(n for counts in (self._before, self._newest) for (_, name), n in counts.items() if name == figure)
