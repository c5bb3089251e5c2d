"""The quantity that all balance objectives share: one estimate of log Z a prefix.

Shapes   B trajectories, T response tokens.

    u_i = log R(z_1:i ⊤) − log q(⊤ | z_1:i) − Σ_{k≤i} log q(z_k | z_1:k−1)

Everything between two prefixes telescopes, so the (i, j) term of sub-trajectory balance (Hu et al., arXiv 2310.04363,
modified SubTB; Madan et al., arXiv 2209.12782) is (u_i − u_j)²: all prefixes must agree on log Z.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss before the division, so that several passes can add up both parts first."""

    numerator: Tensor
    """[] sum of weighted squared differences, nats²; see `sft` and `pg` for theirs."""
    denominator: Tensor
    """[] sum of the weights."""
    residual: Tensor
    """[B] root mean square of a trajectory's u around the value it should have, nats, detached: its replay priority.
    1 for `sft` and `pg`; NaN for a trajectory that `vargrad` cannot compare with another."""

    @property
    def value(self) -> Tensor:
        """[] nats² (nats for `sft`, a mean advantage for `pg`); 0 where there is nothing to compare."""
        return self.numerator / self.denominator.clamp_min(1.0)


@dataclass(frozen=True, slots=True)
class Estimates:
    """The input of every objective."""

    u: Tensor
    """[B, T+1] nats; any finite value at a prefix that is not terminal."""
    is_terminal: Tensor
    """[B, T+1] bool: prefixes that have a u."""
    group: Tensor
    """[B] int in 0..G-1: the number of the trajectory's prompt."""
    log_q: Tensor
    """[B] log q(Z ⊤ | X) of the whole string, nats."""
    sampled_log_q: Tensor
    """[B] the same under the version that sampled it, without gradient."""


Objective: TypeAlias = Callable[[Estimates, float], Loss]
"""(estimates, λ) -> Loss. Only `subtb` reads λ."""


def log_z_estimates(log_pf: Tensor, log_pterm: Tensor, log_reward: Tensor) -> Tensor:
    """u, the estimate of log Z that each prefix makes.

    log_pf [B, T] is 0 at tool tokens and padding; log_pterm and log_reward [B, T+1] are finite everywhere (any value
    at a prefix that is not terminal). Returns [B, T+1] nats.
    """
    assert log_pterm.shape == log_reward.shape == (log_pf.shape[0], log_pf.shape[1] + 1)
    log_q_prefix = torch.nn.functional.pad(log_pf.cumsum(1), (1, 0))  # [B, T+1] Σ_{k≤i} log q(z_k | z_1:k−1)
    return log_reward - log_pterm - log_q_prefix


def log_q_of_strings(log_pf: Tensor, log_pterm: Tensor, is_terminal: Tensor) -> Tensor:
    """log q(Z ⊤ | X) [B] of whole strings, nats: all actions and the stop at the last terminal prefix."""
    return log_pf.sum(1) + value_at(log_pterm, last_terminal(is_terminal))


def first_terminal(is_terminal: Tensor) -> Tensor:
    """[B] index of the first terminal prefix: the root, unless stopping is not allowed there yet."""
    return is_terminal.int().argmax(1)


def last_terminal(is_terminal: Tensor) -> Tensor:
    """[B] index of the last terminal prefix: the whole string."""
    return is_terminal.shape[1] - 1 - is_terminal.flip(1).int().argmax(1)


def value_at(x: Tensor, index: Tensor) -> Tensor:
    """Values of x [B, n] at one index [B] a row. Returns [B]."""
    return x.gather(1, index[:, None])[:, 0]


def masked_mean(x: Tensor, is_terminal: Tensor) -> Tensor:
    """Mean of x [B, n] over the terminal prefixes; 0 for a row without any. Returns [B, 1]."""
    return (x * is_terminal).sum(1, keepdim=True) / is_terminal.sum(1, keepdim=True).clamp_min(1)
