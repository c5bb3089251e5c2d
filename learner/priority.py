"""Replay priorities: a number >= 0 for each row of a batch, sent to the buffer after the step.

residual   distance of a trajectory's prefixes from agreeing, nats
reward     R^(1/T) of the whole string relative to the largest one seen for its prompt, T the step's reward temperature:
           strings are replayed as the target has them, however rarely the current policy samples them, and however
           small the rewards of their prompt are
recency    halves with every `half_life` versions since the string was sampled

A mixture is the product of kinds, each to the power of its share: kinds have different units, and a product needs no
common one. Priorities move effort, not the optimum: SubTB needs no importance weights.
"""

import math
from collections.abc import Mapping, Sequence

from learner.objectives.balance import Loss


class Priorities:
    """Priorities of one kind, or of a mixture of kinds."""

    def __init__(self, shares: Mapping[str, float], half_life: float) -> None:
        """`shares`: kind -> exponent. `half_life` of recency in versions."""
        self._shares = shares
        self._half_life = half_life
        self.largest_log_rewards: dict[str, float] = {}
        """Prompt id -> largest log R of a whole string seen, nats; empty where no priority needs it."""

    def compute(
        self,
        loss: Loss,
        log_rewards: Sequence[float],
        temperature: float,
        prompt_ids: Sequence[str],
        staleness: Sequence[int],
    ) -> list[float]:
        """[B] priorities; `log_rewards` [B] of whole strings, untempered, nats; `staleness` [B] in versions.

        NaN for a row whose residual the objective cannot give.
        """
        kinds = {
            "residual": loss.residual.cpu().tolist(),
            "reward": self._relative_rewards(log_rewards, temperature, prompt_ids) if "reward" in self._shares else [],
            "recency": [0.5 ** (max(age, 0) / self._half_life) for age in staleness],
        }
        return [
            math.prod(kinds[kind][row] ** share for kind, share in self._shares.items())
            for row in range(len(log_rewards))
        ]

    def _relative_rewards(
        self, log_rewards: Sequence[float], temperature: float, prompt_ids: Sequence[str]
    ) -> list[float]:
        """[B] R^(1/T) over that of the largest R seen for the prompt, this batch included."""
        largest = self.largest_log_rewards
        pairs = list(zip(prompt_ids, log_rewards, strict=True))
        for prompt_id, value in pairs:
            largest[prompt_id] = max(value, largest.get(prompt_id, value))
        return [math.exp((value - largest[prompt_id]) / temperature) for prompt_id, value in pairs]
