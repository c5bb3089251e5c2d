"""What makes a replayed trajectory urgent: a number >= 0 for each row of a batch, sent to the buffer after the step.

Priorities move effort, not the optimum: SubTB needs no importance weights.
"""

import math
from collections.abc import Sequence

from learner.objectives.balance import Loss


class Priorities:
    """By `residual`: how far a trajectory's prefixes are from agreeing, nats. By `reward`: R of the whole string
    relative to the largest one seen, so that every good string found is visited alike, however rarely the policy
    samples it now."""

    def __init__(self, kind: str) -> None:
        """`kind` is residual or reward."""
        self._kind = kind
        self.largest: float | None = None

    def of(self, loss: Loss, log_rewards: Sequence[float]) -> list[float]:
        """[B] priorities; `log_rewards` [B] are those of the whole strings, untempered, nats."""
        if self._kind == "residual":
            residuals: list[float] = loss.residual.cpu().tolist()
            return residuals
        self.largest = max(log_rewards if self.largest is None else (self.largest, *log_rewards))
        return [math.exp(value - self.largest) for value in log_rewards]
