"""Draws the behaviour of the next trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.config import BehaviourConfig


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A behaviour of the recipe, with the temperature drawn from its range."""

    name: str
    temperature: float
    """0 takes the most likely token."""
    suppress_stop: bool
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities add up to this. Recipes do not set it: strings outside would
    never be sampled."""


class BehaviourMix:
    """Draws behaviours in proportion to their weights."""

    def __init__(self, behaviours: Sequence[BehaviourConfig], seed: int) -> None:
        self._behaviours = list(behaviours)
        weights = np.array([b.weight for b in behaviours])
        self._shares = weights / weights.sum()
        self._rng = np.random.default_rng(seed)

    def next(self) -> Behaviour:
        """The next trajectory's behaviour."""
        chosen = self._behaviours[self._rng.choice(len(self._behaviours), p=self._shares)]
        temperature = float(self._rng.uniform(chosen.temperature_low, chosen.temperature_high))
        return Behaviour(chosen.name, temperature, chosen.suppress_stop)
