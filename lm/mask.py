"""The mask of a policy's tokens, from the plain log-probabilities that an engine reports for chosen tokens."""

from collections.abc import Mapping, Sequence

import numpy as np

from buffer.types import PolicySpec

MAX_LOG_MASKED = 100.0
"""Nats that a mask may take off the normaliser: more cannot be told from fp32 log-probabilities."""


def watched(spec: PolicySpec) -> list[int]:
    """The tokens whose log-probabilities tell the mask: the stop, with the allowed tokens or the forbidden ones."""
    return sorted({spec.stop_token_id, *(spec.allowed_token_ids or spec.forbidden_token_ids)})


def log_normaliser(log_p: Mapping[int, float], spec: PolicySpec, tokens: Sequence[int]) -> float:
    """log of the mass that the mask leaves, nats, at least that of each of the permitted `tokens`. `log_p` has all of
    `watched`. Behind forbidden tokens its error is that of `log_p` over the mass that is left."""
    if spec.allowed_token_ids is not None:
        return float(np.logaddexp.reduce([log_p[token] for token in watched(spec)]))
    if not spec.forbidden_token_ids:
        return 0.0
    return log_left(
        float(np.logaddexp.reduce([log_p[token] for token in spec.forbidden_token_ids])),
        [log_p[token] for token in tokens],
    )


def log_left(log_masked: float, others: Sequence[float]) -> float:
    """log(1 - exp(log_masked)), at least each of the `others`: in fp32, a masked token that is all but certain leaves
    0."""
    with np.errstate(divide="ignore"):
        left = float(np.log(-np.expm1(min(log_masked, 0.0))))
    return max(left, *others, -MAX_LOG_MASKED)
