"""Do samples follow their posterior? Figures of whole strings drawn on-policy, with bootstrap intervals.

The target is R(Z ⊤)^(1/T), T the reward temperature. w = R(Z ⊤)^(1/T) / q(Z ⊤), and u = log w, nats.

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
ONE_POINT = 0.75
"""Share of log R's variance that one string may make, or a slope says something of that string alone."""
CHUNK = 2_000_000
"""Resampled values held at a time."""

EXPLANATIONS: Mapping[str, str] = {
    "log_reward": "nats, mean, untempered",
    "log_z_lower": "nats, bounds log Z from below",
    "log_z_mean": "nats, its tighter estimate",
    "kl_to_target": "nats, the gap; aim: 0",
    "ess": "effective sample share; aim: 1",
    "var_u": "nats²; aim: 0",
    "slope": "log q on log R/T; aim: 1",
    "correlation": "of the two; aim: 1",
    "distinct_share": "different strings",
}
"""Every figure of `posterior_figures`, in its order, in the words of a narrow table."""


def posterior_figures(samples: Mapping[str, Sequence[Sample]], temperature: float) -> dict[str, Figure]:
    """How well samples (prompt id -> its samples) follow R^(1/T), T = `temperature`; NaN where it is not known.

    log_reward      mean log R, untempered, nats
    log_z_lower     mean u, nats: below log Z by KL(q || target)
    log_z_mean      log-mean-exp of u, nats: tighter; both are log Z at the optimum
    kl_to_target    their difference, nats: KL(q || target) as far as the samples tell
    ess             effective sample size of w as a share of K
    var_u           variance of u among a prompt's samples, nats²
    slope, correlation   of log q against log R/T; NaN where all R are equal, or all but one
    distinct_share  different strings among a prompt's samples, as a share of K

    A mean over the prompts with at least two samples, with a bootstrap interval over these prompts. Where there is only
    one, the interval is over its samples: it says how far another draw of K would be off, and nothing of other prompts.
    (`distinct_share` then has none: resampling repeats strings.)

    `log_z_mean`, and so `kl_to_target`, is too small on average, the more so where q hardly reaches some of the
    target's mass: no sample tells of a mode that was never drawn.
    """
    drawn = [some for some in samples.values() if len(some) >= 2]
    if not drawn:
        return dict.fromkeys(EXPLANATIONS, math.nan)
    if len(drawn) == 1:
        return _of_one_prompt(drawn[0], temperature)
    rng = np.random.default_rng(0)
    each = [_values(some, temperature) for some in drawn]
    return {name: bootstrap_mean([v[name] for v in each if math.isfinite(v[name])], rng) for name in EXPLANATIONS}


def resampled_unit(samples: Mapping[str, Sequence[Sample]]) -> str:
    """What the intervals of `posterior_figures` are over: "prompts", or "samples" of the only one."""
    return "samples" if sum(len(some) >= 2 for some in samples.values()) == 1 else "prompts"


def log_z_of(samples: Sequence[Sample], temperature: float) -> float:
    """`log_z_mean` of one prompt's samples, nats; NaN for none."""
    log_q, log_reward = _logs(samples)
    return (
        float(np.logaddexp.reduce(log_reward / temperature - log_q)) - math.log(len(samples)) if samples else math.nan
    )


def _values(samples: Sequence[Sample], temperature: float) -> dict[str, float]:
    """Each figure of one prompt's K samples."""
    figures = {name: float(value) for name, value in _of_strings(*_logs(samples), temperature).items()}
    return figures | {"distinct_share": len({sample.token_ids.tobytes() for sample in samples}) / len(samples)}


def _of_one_prompt(samples: Sequence[Sample], temperature: float) -> dict[str, Figure]:
    values, (log_q, log_reward) = _values(samples, temperature), _logs(samples)
    rng, rows, k = np.random.default_rng(0), max(1, CHUNK // len(samples)), len(samples)
    resampled: dict[str, list[Array]] = {}
    for begin in range(0, RESAMPLES, rows):
        chosen = rng.integers(k, size=(min(rows, RESAMPLES - begin), k))
        for name, found in _of_strings(log_q[chosen], log_reward[chosen], temperature).items():
            resampled.setdefault(name, []).append(found)
    return {
        name: _interval(value, np.concatenate(resampled[name])) if name in resampled else value
        for name, value in values.items()
    }


def _interval(value: float, resampled: Array) -> Interval:
    """The central LEVEL of the resampled values [B] that are known."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _logs(samples: Sequence[Sample]) -> tuple[Array, Array]:
    """(log q [K], log R [K]), nats."""
    return np.array([s.log_q for s in samples]), np.array([s.log_reward for s in samples])


def _of_strings(log_q: Array, log_reward: Array, temperature: float) -> dict[str, Any]:
    """[..., K] each, K >= 2 -> name -> [...]: all figures that follow from these."""
    log_target = log_reward / temperature
    u = log_target - log_q
    top = u.max(-1, keepdims=True)
    w = np.exp(u - top)
    log_z_lower, log_z_mean = u.mean(-1), top[..., 0] + np.log(w.mean(-1))
    slope, correlation = line(log_target, log_q)
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


def line(x: Array, y: Array) -> tuple[Array, Array]:
    """Slope and correlation of y [..., K] against x; NaN where x, or for the correlation y, does not vary, and where
    one of the points makes more than ONE_POINT of the variance of x."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    var_x, var_y, both = (x * x).mean(-1), (y * y).mean(-1), (x * y).mean(-1)
    tiny = 1e-12
    spread = (var_x > tiny) & ((x * x).max(-1) <= ONE_POINT * var_x * x.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread, both / var_x, math.nan)
        correlation = np.where(spread & (var_y > tiny), both / np.sqrt(var_x * var_y), math.nan)
    return slope, correlation
