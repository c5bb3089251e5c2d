"""Coverage: contrary evidence from strings that the sampler did not draw, which needs no exact draw.

The sum of R^(1/T) over any distinct strings is a lower bound of Z, whatever q is, and so is, up to its noise, the mean
of R^(1/T) / p_base over draws of the base model. Where one of them stands above the sampler's own estimate, its draws
miss mass. If neither does, nothing is proved: these strings may miss the same modes.

Shapes   K draws of q, B draws of the base model, N distinct strings of one prompt.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewards.judging.certificate import FAR, Array, Weighed, log_mean_exp

RESAMPLES = 500
Z_SCORE = 3.0
"""Standard errors that the sampler's own estimate of log Z may be off."""
SLACK = 0.1
"""Nats that log q may be off by its precision."""
FEW = 0.01
"""A share of missing mass below this is no evidence."""

EXPLANATIONS: Mapping[str, str] = {
    "log_z_own": "The sampler's own estimate of log Z, nats.",
    "log_z_known": "Lower bound of log Z from all known strings, nats.",
    "log_z_base": "Estimate of log Z from the base model's draws, nats.",
    "missing": "Share of the known mass that log_z_own leaves out.",
}
"""Every figure of `coverage`, in its order."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The strings of one prompt that need no exact draw."""

    drawn: Weighed
    """K draws of q."""
    strings: Weighed
    """N distinct strings, those of `drawn` included, wherever they come from."""
    names: Sequence[str]
    """[N] each as text, for people."""
    base: Array = field(default_factory=lambda: np.zeros(0))
    """[B] log of R^(1/T) / p_base of the base model's draws, nats."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Contrary evidence of one prompt."""

    figures: Mapping[str, float]
    """The figures that `EXPLANATIONS` explains."""
    underrated: str
    """The string with the most mass of those that q rates FAR nats below its other draws; "" if there is none."""
    underrated_u: float
    """Its u, nats: what log Z would be if q were right there."""
    underrated_share: float
    """Its mass, as a share of the known mass."""


def coverage(evidence: Evidence) -> Coverage:
    """Compare the sampler's own estimate of log Z with what other strings say of it."""
    u, strings = evidence.drawn.u, evidence.strings
    own = float(log_mean_exp(u))
    bound = float(np.logaddexp.reduce(strings.log_target))
    base = float(log_mean_exp(evidence.base)) if len(evidence.base) else math.nan
    from_base = _low_end(evidence.base) if len(evidence.base) > 1 else -math.inf
    room = own + Z_SCORE * _standard_error(u) + SLACK
    heaviest = max(bound, from_base)
    underrated = np.flatnonzero(strings.u > own + FAR)
    share = np.exp(strings.log_target - max(heaviest, own))
    listed = float(share[underrated].sum())
    missing = max(-math.expm1(min(room - heaviest, 0.0)), listed if listed >= FEW else 0.0)
    worst = underrated[np.argmax(strings.log_target[underrated])] if len(underrated) else None
    return Coverage(
        {"log_z_own": own, "log_z_known": bound, "log_z_base": base, "missing": missing},
        evidence.names[worst] if worst is not None else "",
        float(strings.u[worst]) if worst is not None else math.nan,
        float(share[worst]) if worst is not None else 0.0,
    )


def _standard_error(u: Array) -> float:
    """Standard error of log-mean-exp of u [K], by the delta method, nats."""
    w = np.exp(u - u.max())
    return float(w.std(ddof=1) / w.mean() / math.sqrt(len(w))) if len(w) > 1 else math.inf


def _low_end(log_w: Array) -> float:
    """2.5 % quantile of the log-mean-exp of resampled weights [B]: one heavy weight alone proves nothing."""
    rng = np.random.default_rng(0)
    return float(np.quantile(log_mean_exp(log_w[rng.integers(len(log_w), size=(RESAMPLES, len(log_w)))]), 0.025))
