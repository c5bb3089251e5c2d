"""The exact confidence interval of a share of successes (Clopper and Pearson, Biometrika 26, 1934)."""

import math

import numpy as np

from rewards.judging.bootstrap import Interval

STEPS = 60
"""Halvings of [0, 1]: below the precision of a float."""


def binomial_share(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The share of `successes` in independent `trials`, and an interval that holds the true share at least `level`
    (0..1) of the time, also where all trials had the same outcome. All NaN without trials."""
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    tail = (1.0 - level) / 2.0
    high = _share_of_tail(successes, trials, tail)
    low = 1.0 - _share_of_tail(trials - successes, trials, tail)
    return Interval(successes / trials, low, high)


def _share_of_tail(k: int, n: int, tail: float) -> float:
    """The p at which P(at most k successes of n) = `tail`; 1 where k = n. That probability falls as p grows."""
    if k == n:
        return 1.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n + 1.0)))])
    i = np.arange(k + 1)
    log_choose = log_factorial[n] - log_factorial[i] - log_factorial[n - i]
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        p = (low + high) / 2.0
        below = float(np.logaddexp.reduce(log_choose + i * math.log(p) + (n - i) * math.log1p(-p)))
        low, high = (p, high) if below > math.log(tail) else (low, p)
    return (low + high) / 2.0
