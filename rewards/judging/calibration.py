"""Simulation-based calibration (Talts et al., arXiv 1804.06788): where an exact draw ranks among draws of the sampler.

If q is the target, the rank of any statistic of an exact draw among K draws of q is uniform on 0..K, whatever the
statistic. Here it is log R, and the length in tokens. Ranks that pile up at one end tell which way q errs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
TERMS = 100
"""Terms of the series of Kolmogorov's distribution: more change no digit of a p-value above 1e-12."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Ranks of N exact draws, as shares of the draws of q below them."""

    ranks: Sequence[float]
    """[N] in 0..1, uniform if q is the target."""

    @property
    def counts(self) -> list[int]:
        """[BINS] exact draws whose rank is in each tenth."""
        return [int(n) for n in np.histogram(self.ranks, bins=BINS, range=(0.0, 1.0))[0]]

    @property
    def band(self) -> tuple[float, float]:
        """Counts between which one bin stays 95 % of the time if the ranks are uniform: a normal approximation."""
        n, p = len(self.ranks), 1.0 / BINS
        spread = 1.96 * math.sqrt(n * p * (1 - p))
        return max(n * p - spread, 0.0), n * p + spread

    @property
    def p_value(self) -> float:
        """P of ranks as far from uniform or farther, by Kolmogorov and Smirnov's distance; NaN without ranks."""
        return _p_value(np.sort(np.array(self.ranks)))


def rank(of_exact: float, of_drawn: Array, rng: np.random.Generator) -> float:
    """Rank of an exact draw's statistic among those of K draws of q [K], in 0..1; ties are broken at random.

    (r + uniform) / (K + 1) for r of 0..K, which is exactly uniform if all K + 1 have one distribution.
    """
    below, ties = int((of_drawn < of_exact).sum()), int((of_drawn == of_exact).sum())
    r = below + int(rng.integers(ties + 1))
    return (r + float(rng.random())) / (len(of_drawn) + 1)


def _p_value(ranks: Array) -> float:
    """Kolmogorov's limit, with Stephens' correction for small N (J. R. Stat. Soc. B 32, 1970)."""
    n = len(ranks)
    if not n:
        return math.nan
    steps = np.arange(n + 1) / n
    distance = float(max((steps[1:] - ranks).max(), (ranks - steps[:-1]).max()))
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if x < 0.2:  # the series converges slowly where it is 1 to 12 digits
        return 1.0
    k = np.arange(1, TERMS + 1)
    return float(np.clip(2.0 * ((-1.0) ** (k - 1) * np.exp(-2.0 * k * k * x * x)).sum(), 0.0, 1.0))
