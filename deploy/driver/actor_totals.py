"""Sums over all actors and all their restarts: an actor's own counts begin at 0 again after a restart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class ActorTotals:
    """Totals from the statuses of actors, as in `RolloutActor.status`."""

    def __init__(self) -> None:
        self._before_restart: Counter[tuple[str, str]] = Counter()
        self._newest: dict[tuple[str, str], int] = {}
        self.canary_difference_max = 0.0
        """Largest mean difference of a canary, or of a version's first samples, nats."""
        self.engine_busy = float("nan")
        """Share of their time that the actors' engines compute, a mean over actors."""

    def update(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """Take in the newest statuses; an actor without one keeps its last."""
        if statuses:
            self.engine_busy = float(np.mean([status["engine_s"] / status["seconds"] for status in statuses]))
        for status in statuses:
            self.canary_difference_max = max(self.canary_difference_max, status["canary_difference_max"])
            for figure in ("trajectories", "tokens", "canaries_exceeded"):
                key = (status["name"], figure)
                if status[figure] < self._newest.get(key, 0):
                    self._before_restart[key] += self._newest[key]
                self._newest[key] = status[figure]

    def total(self, figure: str) -> int:
        """Sum of trajectories, tokens or canaries_exceeded over all actors and all their restarts."""
        counts = (self._before_restart, self._newest)
        return sum(n for by_key in counts for (_, name), n in by_key.items() if name == figure)
