"""How sure a mean over prompts is: the percentile bootstrap (Efron, 1979)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its confidence interval, all in the estimate's own unit."""

    value: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of N values, and the central `level` (0..1) of the means of N drawn from them with replacement.

    One value a prompt, such as the mean over its samples: samples of one prompt are not independent, prompts are. All
    three are NaN for no value, and equal for one. With few values the interval is too narrow: at ten prompts of a
    normal figure it holds the truth some 90 % of the time where 95 % is asked. Takes 16 · resamples · N bytes.
    """
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    given = np.asarray(values, dtype=np.float64)
    means = given[rng.integers(len(given), size=(resamples, len(given)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(given.mean()), float(low), float(high))
