"""Posterior fit: figures of whole strings drawn on-policy that tell if the samples follow R, with bootstrap intervals.

The target is R(Z ⊤)^(1/T), T the reward temperature. Importance weight: w = R(Z ⊤)^(1/T) / q(Z ⊤), u = log w, nats.

Shapes   K samples of one prompt, B resamples; "..." stands for B or for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.task import Figure, Sample

Array = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
MAX_LEVERAGE = 0.75
"""Largest share of the variance of log R that one string may contribute; above it, a fitted line depends on that string
alone and is not reported."""
CHUNK = 2_000_000
"""Resampled values in memory at a time."""

EXPLANATIONS: Mapping[str, str] = {
    "log_reward": "Mean log reward at temperature 1, in nats.",
    "log_z_lower": "Lower bound of log Z, in nats.",
    "log_z_mean": "Estimate of log Z, in nats.",
    "kl_to_target": "Gap of the two, in nats. Optimum: 0.",
    "ess": "Effective sample size over samples. Optimum: 1.",
    "var_u": "Variance of log R/T - log q, in nats². Optimum: 0.",
    "slope": "Slope of log q over log R/T. Optimum: 1.",
    "correlation": "Correlation of log q and log R/T. Optimum: 1.",
    "distinct_share": "Different strings as a share of samples.",
}
"""Every figure of `posterior_figures`, in its order; short, because the table they are shown in is narrow."""


def posterior_figures(samples: Mapping[str, Sequence[Sample]], temperature: float) -> dict[str, Figure]:
    """Figures of how well samples (prompt id -> its samples) follow R^(1/T), T = `temperature`; NaN means not known.

    log_reward      mean log R at temperature 1, nats
    log_z_lower     mean u, nats: below log Z by KL(q || target)
    log_z_mean      log-mean-exp of u, nats: a tighter estimate; both equal log Z at the optimum
    kl_to_target    their difference, nats: an estimate of KL(q || target)
    ess             effective sample size of w as a share of K
    var_u           variance of u over a prompt's samples, nats²
    slope, correlation   of log q over log R/T; NaN if all R are equal, or all but one
    distinct_share  different strings among a prompt's samples, as a share of K

    Each figure is a mean over the prompts with at least two samples, with a bootstrap interval over these prompts. With
    only one such prompt, the interval is over its samples: it covers another draw of K samples of the same prompt, not
    other prompts. (`distinct_share` then has no interval, because resampling repeats strings.)

    `log_z_mean`, and so `kl_to_target`, is too small on average, most of all where q hardly reaches some of the
    target's mass: samples carry no information on a mode that was never drawn.
    """
    by_prompt = [drawn for drawn in samples.values() if len(drawn) >= 2]
    if not by_prompt:
        return dict.fromkeys(EXPLANATIONS, math.nan)
    if len(by_prompt) == 1:
        return _figures_of_one_prompt(by_prompt[0], temperature)
    rng = np.random.default_rng(0)
    values = [_values(drawn, temperature) for drawn in by_prompt]
    return {name: bootstrap_mean([v[name] for v in values if math.isfinite(v[name])], rng) for name in EXPLANATIONS}


def resampled_unit(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The unit that the intervals of `posterior_figures` resample: "prompts", or "samples" of the only prompt."""
    return "samples" if sum(len(drawn) >= 2 for drawn in samples.values()) == 1 else "prompts"


def estimate_log_z(samples: Sequence[Sample], temperature: float) -> float:
    """`log_z_mean` of one prompt's samples, nats; NaN without samples."""
    log_q, log_reward = _logs(samples)
    return (
        float(np.logaddexp.reduce(log_reward / temperature - log_q)) - math.log(len(samples)) if samples else math.nan
    )


def _values(samples: Sequence[Sample], temperature: float) -> dict[str, float]:
    """All figures of one prompt's K samples."""
    figures = {name: float(value) for name, value in _weight_figures(*_logs(samples), temperature).items()}
    return figures | {"distinct_share": len({sample.token_ids.tobytes() for sample in samples}) / len(samples)}


def _figures_of_one_prompt(samples: Sequence[Sample], temperature: float) -> dict[str, Figure]:
    values, (log_q, log_reward) = _values(samples, temperature), _logs(samples)
    rng, rows, k = np.random.default_rng(0), max(1, CHUNK // len(samples)), len(samples)
    resampled: dict[str, list[Array]] = {}
    for begin in range(0, RESAMPLES, rows):
        chosen = rng.integers(k, size=(min(rows, RESAMPLES - begin), k))
        for name, figure in _weight_figures(log_q[chosen], log_reward[chosen], temperature).items():
            resampled.setdefault(name, []).append(figure)
    return {
        name: _interval(value, np.concatenate(resampled[name])) if name in resampled else value
        for name, value in values.items()
    }


def _interval(value: float, resampled: Array) -> Interval:
    """The central LEVEL of the finite resampled values [B]."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _logs(samples: Sequence[Sample]) -> tuple[Array, Array]:
    """(log q [K], log R [K]), nats."""
    return np.array([s.log_q for s in samples]), np.array([s.log_reward for s in samples])


def _weight_figures(log_q: Array, log_reward: Array, temperature: float) -> dict[str, Any]:
    """log q and log R [..., K], K >= 2 -> name -> [...]: all figures that follow from these two."""
    log_target = log_reward / temperature
    u = log_target - log_q
    top = u.max(-1, keepdims=True)
    w = np.exp(u - top)
    log_z_lower, log_z_mean = u.mean(-1), top[..., 0] + np.log(w.mean(-1))
    slope, correlation = fit_line(log_target, log_q)
    return {
        "log_reward": log_reward.mean(-1),
        "log_z_lower": log_z_lower,
        "log_z_mean": log_z_mean,
        "kl_to_target": log_z_mean - log_z_lower,
        "ess": w.mean(-1) ** 2 / (w * w).mean(-1),
        "var_u": u.var(-1, ddof=1),
        "slope": slope,
        "correlation": correlation,
    }


def fit_line(x: Array, y: Array) -> tuple[Array, Array]:
    """(slope, correlation) of y [..., K] over x, by least squares.

    NaN where x does not vary or one point contributes more than MAX_LEVERAGE of its variance; the correlation is NaN
    where y does not vary, too.
    """
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    var_x, var_y, covariance = (x * x).mean(-1), (y * y).mean(-1), (x * y).mean(-1)
    tiny = 1e-12
    determined = (var_x > tiny) & ((x * x).max(-1) <= MAX_LEVERAGE * var_x * x.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(determined, covariance / var_x, math.nan)
        correlation = np.where(determined & (var_y > tiny), covariance / np.sqrt(var_x * var_y), math.nan)
    return slope, correlation
