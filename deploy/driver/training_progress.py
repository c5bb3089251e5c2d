"""The figures of a run so far: the learner's rows, the processes' newest statuses, totals and clocks."""

import time
from collections.abc import Sequence
from typing import Any

from deploy.cluster.system import SystemReport
from deploy.driver.actor_totals import ActorTotals


class TrainingProgress:
    """Source of the snapshots and of the summary. Time is counted over all sessions of a resumed run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._training_began = self._began
        self._earlier_s = 0.0
        """Training time of earlier sessions, s."""
        self.training_s = 0.0
        """Training time of all sessions, s; 0 until training has ended."""
        self.row: dict[str, Any] = {}
        """Newest row of the learner; empty before the first step."""
        self.actors: Sequence[dict[str, Any]] = ()
        self.rewards: Sequence[dict[str, Any]] = ()
        self.actor_names: Sequence[str] = ()
        self.totals = ActorTotals()

    @property
    def elapsed_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._began

    @property
    def step(self) -> int:
        """Steps of the learner so far."""
        return int(self.row.get("step", 0))

    @property
    def session_s(self) -> float:
        """Training time of this session, s: the actors' totals count from its start."""
        return max(self.training_s - self._earlier_s, 1e-9)

    def restore(self, row: dict[str, Any]) -> None:
        """Continue from the last row of an earlier session."""
        self.row = row
        self._earlier_s = row.get("elapsed_s", 0.0)

    def begin_training(self) -> None:
        """Start the training clock."""
        self._training_began = time.monotonic() - self._earlier_s

    def end_training(self) -> None:
        """Stop the training clock."""
        self.training_s = time.monotonic() - self._training_began

    def add_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Take in a new row; returns it with the training time so far, `elapsed_s`."""
        self.row = row | {"elapsed_s": time.monotonic() - self._training_began}
        return self.row

    def update(self, report: SystemReport) -> None:
        """Take in the processes' statuses."""
        self.actors, self.rewards, self.actor_names = report.actors, report.rewards, report.actor_names
        self.totals.update(report.actors)
