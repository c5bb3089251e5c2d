"""What makes a replayed trajectory urgent: a number >= 0 for each row of a batch, sent to the buffer after the step.

residual   how far a trajectory's prefixes are from agreeing, nats
reward     R of the whole string relative to the largest one seen, so that every good string found is visited alike,
           however rarely the policy samples it now
recency    half for each `half_life` versions since it was sampled

A mixture is the product of kinds, each to the power of its share: kinds have different units, and a product asks for
no common one. Priorities move effort, not the optimum: SubTB needs no importance weights.
"""

import math
from collections.abc import Mapping, Sequence

from learner.objectives.balance import Loss


class Priorities:
    """Of the kinds in `shares`."""

    def __init__(self, shares: Mapping[str, float], half_life: float) -> None:
        """`shares`: kind -> exponent; `half_life`: of recency, versions."""
        self._shares = shares
        self._half_life = half_life
        self.largest: float | None = None
        """Largest log R of a whole string seen, nats."""

    def compute(self, loss: Loss, log_rewards: Sequence[float], staleness: Sequence[int]) -> list[float]:
        """[B] priorities; `log_rewards` [B] are those of the whole strings, untempered, nats; `staleness` in versions.

        NaN for a row whose residual the objective does not know.
        """
        self.largest = max(log_rewards if self.largest is None else (self.largest, *log_rewards))
        kinds = {
            "residual": loss.residual.cpu().tolist(),
            "reward": [math.exp(value - self.largest) for value in log_rewards],
            "recency": [0.5 ** (max(age, 0) / self._half_life) for age in staleness],
        }
        return [
            math.prod(kinds[kind][row] ** share for kind, share in self._shares.items())
            for row in range(len(log_rewards))
        ]
