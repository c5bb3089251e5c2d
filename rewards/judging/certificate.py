"""The certificate: how far a sampler q is from the target p, from draws of both.

The target is p(Z) = R(Z ⊤)^(1/T) / Z, and w = R^(1/T) / q, u = log w, nats. Averages over draws of q alone are blind to
a mode that q never draws. Exact draws of p are not, so that bounds from both sides hold (docs/certificate.md).

    E_q[u]  <=  log-mean-exp of K draws of q  <=  log Z  <=  the same with one exact draw among the K  <=  E_p[u]

The inequalities hold for the means: Burda et al., arXiv 1509.00519, and Grosse et al., arXiv 1511.02543. The outermost
two are log Z - KL(q ‖ p) and log Z + KL(p ‖ q): their distance, the gap, is the sum of both divergences, without bias.

Shapes   K draws of q, M exact draws; "..." stands for resamples or for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.judging.bootstrap import Interval, bootstrap_mean
from rewards.judging.posterior import fit_line

Array = NDArray[np.float64]

RESAMPLES = 500
LEVEL = 0.95
MANY_PROMPTS = 10
"""From so many prompts on the intervals resample prompts, below it the draws of each prompt."""
FAR = 3.0
"""Nats: a string is underrated or overrated if q is 20 times too small or too large for it."""

EXPLANATIONS: Mapping[str, str] = {
    "log_z_low": "Lower bound of log Z, nats: K draws of the sampler.",
    "log_z_high": "Upper bound of log Z, nats: one of the K is exact.",
    "kl_q_p": "KL(sampler || target), nats: at most.",
    "kl_p_q": "KL(target || sampler), nats: at most.",
    "gap": "Sum of both divergences, nats.",
    "underrated": "Share of the target drawn 20 times too seldom.",
    "overrated": "Share of draws that are 20 times too frequent.",
    "tempering": "Slope of log q over log R/T on exact draws.",
}
"""Every figure of a certificate, in its order."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """N strings, with what target and sampler say of them; nats."""

    log_target: Array
    """[N] log R(Z ⊤)^(1/T)."""
    log_q: Array
    """[N] log q(Z ⊤)."""

    @property
    def u(self) -> Array:
        """[N] log w."""
        return self.log_target - self.log_q

    def __len__(self) -> int:
        return len(self.log_q)


@dataclass(frozen=True, slots=True)
class ExactDraws:
    """M exact draws of the target, or a whole list of its strings with their probabilities."""

    strings: Weighed
    weights: Array
    """[M] they sum to 1: 1/M for draws, probabilities for a list."""
    listed: bool = False
    """The strings are the whole list: no sampling noise."""


def two_sided(drawn: Weighed, exact: ExactDraws) -> dict[str, float]:
    """The figures of `EXPLANATIONS` for one prompt, from K >= 2 draws of q and M >= 1 exact draws."""
    return {name: float(value) for name, value in _figures(drawn.u, exact.strings, exact.weights).items()}


def certificate_figures(evidence: Sequence[tuple[Weighed, ExactDraws]]) -> dict[str, Interval]:
    """Means over prompts of `two_sided`, with 95 % intervals.

    From MANY_PROMPTS prompts on they resample prompts; with fewer, the draws of each prompt, so that they are of these
    prompts alone. The interval of a bound covers the mean of the bound, on the far side of the truth.
    """
    values = [two_sided(drawn, exact) for drawn, exact in evidence]
    rng = np.random.default_rng(0)
    if len(evidence) >= MANY_PROMPTS:
        return {name: bootstrap_mean(_finite([v[name] for v in values]), rng) for name in EXPLANATIONS}
    resampled = [_resample(drawn, exact, rng) for drawn, exact in evidence]
    figures = {}
    for name in EXPLANATIONS:
        kept = [k for k, v in enumerate(values) if math.isfinite(v[name])]
        mean = float(np.mean([values[k][name] for k in kept])) if kept else math.nan
        draws = np.mean([resampled[k][name] for k in kept], axis=0) if kept else np.full(1, math.nan)
        low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if kept else (math.nan, math.nan)
        figures[name] = Interval(mean, float(low), float(high))
    return figures


def log_mean_exp(values: Array) -> Array:
    """Over the last axis, which is not empty; nats."""
    result: Array = np.logaddexp.reduce(values, axis=-1) - math.log(values.shape[-1])
    return result


def _figures(u: Array, exact: Weighed, weights: Array) -> dict[str, Array]:
    """u [..., K] of draws of q; `exact` [..., M] with `weights` [..., M]."""
    v, k = exact.u, u.shape[-1]
    low, e_q, e_p = log_mean_exp(u), u.mean(-1), (weights * v).sum(-1)
    others = np.logaddexp.reduce(u[..., 1:], axis=-1)
    high = (weights * np.logaddexp(others[..., None], v)).sum(-1) - math.log(k)
    # E_p[1 / w] is q's mass on strings like the exact draws over Z: the log w that they have if q treats all alike
    with np.errstate(divide="ignore"):
        typical = -np.logaddexp.reduce(np.log(weights) - v, axis=-1)
    return {
        "log_z_low": low,
        "log_z_high": high,
        "kl_q_p": high - e_q,
        "kl_p_q": e_p - low,
        "gap": e_p - e_q,
        "underrated": (weights * (v - typical[..., None] > FAR)).sum(-1),
        "overrated": (u - typical[..., None] < -FAR).mean(-1),
        "tempering": _slope(exact.log_target, exact.log_q, weights),
    }


def _slope(x: Array, y: Array, weights: Array) -> Array:
    """Slope of y [..., M] over x [..., M] under `weights`; NaN where x does not vary."""
    if np.allclose(weights, 1.0 / weights.shape[-1]):
        return fit_line(x, y)[0]
    x, y = (z - (weights * z).sum(-1, keepdims=True) for z in (x, y))
    variance, covariance = (weights * x * x).sum(-1), (weights * x * y).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope: Array = np.where(variance > 1e-12, covariance / variance, math.nan)
    return slope


def _resample(drawn: Weighed, exact: ExactDraws, rng: np.random.Generator) -> dict[str, Array]:
    """Name -> [RESAMPLES] figures of draws taken with replacement from both sets."""
    u = drawn.u[rng.integers(len(drawn), size=(RESAMPLES, len(drawn)))]
    strings, weights = exact.strings, np.broadcast_to(exact.weights, (RESAMPLES, len(exact.weights)))
    if exact.listed:
        chosen = np.broadcast_to(np.arange(len(strings)), weights.shape)
    else:
        chosen = rng.integers(len(strings), size=weights.shape)
    return _figures(u, Weighed(strings.log_target[chosen], strings.log_q[chosen]), weights)


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
