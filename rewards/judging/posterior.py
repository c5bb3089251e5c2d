"""Posterior fit: figures of whole strings drawn on-policy that tell if the samples follow R, with bootstrap
intervals, or as bounds where the estimate is biased.

The target is R(Z ⊤)^(1/T), T the reward temperature. Importance weight: w = R(Z ⊤)^(1/T) / q(Z ⊤), u = log w, nats.

Shapes   K samples of one prompt, B resamples; "..." stands for B or for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.bound import Bound
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
    "log_z_mean": "Estimate of log Z, in nats; too low on average.",
    "kl_to_target": "Gap of the two, in nats; too small on average.",
    "ess": "Effective sample size over samples K; too large on average.",
    "var_u": "Variance of log R/T - log q, in nats².",
    "slope": "Slope of log q over log R/T.",
    "correlation": "Correlation of log q and log R/T.",
    "distinct_share": "Different strings as a share of samples.",
}
"""Every figure of `posterior_figures`, in its order; short, because the table they are shown in is narrow."""
SIDES: Mapping[str, Literal["at least", "at most"]] = {
    "log_z_mean": "at least",
    "kl_to_target": "at least",
    "ess": "at most",
}
"""The figures that are a `Bound`. By Jensen's inequality: the log of a mean is concave, and the square of one mean over
another is convex, so with K samples the first two are too small on average and the last is too large."""


def posterior_figures(samples: Mapping[str, Sequence[Sample]], temperature: float) -> dict[str, Figure]:
    """Figures of how well samples (prompt id -> its samples) follow R^(1/T), T = `temperature`; NaN means not known.

    log_reward      mean log R at temperature 1, nats
    log_z_lower     mean u, nats: below log Z by KL(q || target)
    log_z_mean      log-mean-exp of u, nats: a tighter lower bound; both equal log Z at the optimum
    kl_to_target    their difference, nats: an estimate of KL(q || target)
    ess             effective sample size of w as a share of K
    var_u           variance of u over a prompt's samples, nats²
    slope, correlation   of log q over log R/T; NaN if all R are equal, or all but one
    distinct_share  different strings among a prompt's samples, as a share of K

    Each figure is a mean over the prompts with at least two samples, with a bootstrap interval over these prompts. With
    only one such prompt, the interval is over its samples: it covers another draw of K samples of the same prompt, not
    other prompts. (`distinct_share` then has no interval, because resampling repeats strings.)

    The figures of `SIDES` are bounds without an interval, most of all too optimistic where q hardly reaches some of the
    target's mass: samples carry no information on a mode that was never drawn. With few samples the bias is large: at a
    true KL of 8 nats, K = 10 samples read about 4, and their `ess`, which is never below 1/K, reads 0.2 or more.
    """
    by_prompt = [drawn for drawn in samples.values() if len(drawn) >= 2]
    if not by_prompt:
        return dict.fromkeys(EXPLANATIONS, math.nan)
    if len(by_prompt) == 1:
        return _figures_of_one_prompt(by_prompt[0], temperature)
    rng = np.random.default_rng(0)
    values = [_values(drawn, temperature) for drawn in by_prompt]
    figures = {name: bootstrap_mean([v[name] for v in values if math.isfinite(v[name])], rng) for name in EXPLANATIONS}
    return {name: _bound(name, f.value, by_prompt) if name in SIDES else f for name, f in figures.items()}


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
            if name not in SIDES:
                resampled.setdefault(name, []).append(figure)
    intervals = {name: _interval(values[name], np.concatenate(drawn)) for name, drawn in resampled.items()}
    bounds = {name: _bound(name, values[name], [samples]) for name in SIDES}
    return values | intervals | bounds


def _bound(name: str, value: float, by_prompt: Sequence[Sequence[Sample]]) -> Bound:
    """A figure of `SIDES`; that of `ess` notes K and 1/K, its smallest value, both means over prompts."""
    floor = float(np.mean([1 / len(samples) for samples in by_prompt]))
    return Bound(value, SIDES[name], f"K = {1 / floor:,.0f}, 1/K = {floor:.3g}" if name == "ess" else "")


def _interval(value: float, resampled: Array) -> Interval:
    """The central LEVEL of the finite resampled values [B]; no ends where they are all equal."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite) or (finite == finite[0]).all():
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
