"""An actor that always samples from the policy as it was a fixed number of versions ago, on an enumerable target.

All strings are listed, so the actor is exact: it draws whole strings from the listed probabilities of an old version. No
engine, no queue and no replay take part, so the lag is the only thing that can differ between two runs.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from buffer.types import FloatArray, Trajectory
from learner.batch import Batch
from learner.objectives.balance import log_q_of_strings
from learner.policy import PrefixLogProbs

SUM_TOLERANCE = 1e-4
"""Largest |1 - Σ q| over the listed strings: fp32 rounding stays below it, a string that is not listed does not."""


@dataclass(frozen=True, slots=True)
class _Version:
    """One published policy, on the K listed strings of at most T tokens."""

    number: int
    share: NDArray[np.float64]
    """[K] probability of each string."""
    log_pf: FloatArray
    """[K, T] nats"""
    log_pterm: FloatArray
    """[K, T+1] nats"""


class LaggedActor:
    """Draws from version max(0, newest - lag); with `lag` None from version 0 for ever."""

    def __init__(self, support: Sequence[Trajectory], lag: int | None, seed: int) -> None:
        """`support` [K] is every string of the target, scored."""
        self._support = support
        self._rng = np.random.default_rng(seed)
        self._published = 0
        self._versions: deque[_Version] = deque(maxlen=None if lag is None else lag + 1)

    def publish(self, batch: Batch, log_probs: PrefixLogProbs) -> None:
        """Take the next version: the policy's `log_probs` of `batch`, which is the support. ValueError unless they sum to 1."""
        log_q = log_q_of_strings(log_probs.log_pf, log_probs.log_pterm, batch.is_terminal)
        share = log_q.double().exp().numpy()
        if not abs(share.sum() - 1.0) < SUM_TOLERANCE:
            raise ValueError(f"q of the listed strings sums to {share.sum()}, not to 1")
        version = _Version(self._published, share / share.sum(), log_probs.log_pf.numpy(), log_probs.log_pterm.numpy())
        self._versions.append(version)
        self._published += 1

    def sample(self, number: int) -> list[Trajectory]:
        """`number` strings at temperature 1, with the version that sampled them and its log-probabilities."""
        version = self._versions[0]
        drawn = self._rng.choice(len(self._support), number, p=version.share)
        return [self._trajectory(int(k), version) for k in drawn]

    def _trajectory(self, k: int, version: _Version) -> Trajectory:
        row, n = self._support[k], len(self._support[k].token_ids)
        return replace(
            row, log_pf=version.log_pf[k, :n], log_pterm=version.log_pterm[k, : n + 1], policy_version=version.number
        )
