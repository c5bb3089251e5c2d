"""Correct the draws of a sampler q until they follow the target: rejection, Metropolis-Hastings, resampling.

u = log R^(1/T) - log q, nats, of K independent draws of q. A perfect q has the same u everywhere, and then each method
keeps every draw. Rejection needs a bound of u and is exact. The other two are exact in the limit of many draws.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["rejection", "metropolis", "resampling"]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corrected:
    """Which of K draws to keep, and how well it worked."""

    chosen: NDArray[np.intp]
    """[n] indices of draws, with repeats."""
    acceptance: float
    """Share of the proposals that were accepted; of resampling, the share of different draws that were kept."""
    ess: float
    """Effective sample size of the K weights, as a share of K: too large on average."""
    bound: float
    """Rejection: log of the bound on w over its mean, nats. Otherwise the same with the largest weight seen in place of
    a bound: a chain whose weights have this bound is within e^-1 of the target after e^bound proposals."""


def reject(u: Array, largest_u: float, rng: np.random.Generator) -> Corrected:
    """Accept each draw with probability w / max w; `largest_u` is the maximum of u over all strings, nats."""
    accepted = np.flatnonzero(np.log(1.0 - rng.random(len(u))) < u - largest_u)
    return Corrected(accepted, len(accepted) / len(u), effective_share(u), largest_u - _log_mean(u))


def metropolis(u: Array, n: int, rng: np.random.Generator) -> Corrected:
    """n states of an independence Metropolis-Hastings chain (Hastings, Biometrika 57, 1970) over all K >= n proposals.

    They are spread evenly over the chain. Its first state is the first draw.
    """
    state, accepted, states = 0, 0, np.empty(len(u), dtype=np.intp)
    log_uniform = np.log(1.0 - rng.random(len(u)))
    for k in range(len(u)):
        if k == 0 or log_uniform[k] < u[k] - u[state]:
            state, accepted = k, accepted + (k > 0)
        states[k] = state
    chosen = states[np.arange(1, n + 1) * len(u) // n - 1]
    return Corrected(chosen, accepted / max(len(u) - 1, 1), effective_share(u), float(u.max()) - _log_mean(u))


def resample(u: Array, n: int, rng: np.random.Generator) -> Corrected:
    """n draws with probability proportional to w (sampling-importance-resampling, Rubin 1988)."""
    w = np.exp(u - u.max())
    chosen = rng.choice(len(u), size=n, p=w / w.sum())
    return Corrected(chosen, len(set(chosen.tolist())) / n, effective_share(u), float(u.max()) - _log_mean(u))


def effective_share(u: Array) -> float:
    """(Σ w)² / (K Σ w²), in 1/K..1."""
    w = np.exp(u - u.max())
    return float(w.sum() ** 2 / (w * w).sum() / len(u))


def _log_mean(u: Array) -> float:
    return float(np.logaddexp.reduce(u)) - math.log(len(u))
