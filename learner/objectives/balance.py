"""What all balance objectives share: one estimate of log Z a prefix.

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
    """A loss before it is divided, so that several ranks can add up both parts first."""

    numerator: Tensor
    """[] sum of weighted squared differences, nats²."""
    denominator: Tensor
    """[] sum of the weights."""
    residual: Tensor
    """[B] root mean square of a trajectory's u around the value it should have, nats, detached: its replay priority."""

    @property
    def value(self) -> Tensor:
        """[] nats²; 0 where no pair exists."""
        return self.numerator / self.denominator.clamp_min(1.0)


Objective: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Loss]
"""(u [B, T+1] nats, counts [B, T+1] bool, group [B] int, lam) -> Loss.

`counts` says which prefixes have a u; `group` numbers the prompts.
"""


def log_z_estimates(log_pf: Tensor, log_pterm: Tensor, log_reward: Tensor) -> Tensor:
    """u, the estimate of log Z that each prefix makes.

    log_pf [B, T] is 0 at tool tokens and padding; log_pterm and log_reward [B, T+1] are finite everywhere (anything
    where a prefix does not count). Returns [B, T+1] nats.
    """
    assert log_pterm.shape == log_reward.shape == (log_pf.shape[0], log_pf.shape[1] + 1)
    log_q_prefix = torch.nn.functional.pad(log_pf.cumsum(1), (1, 0))  # [B, T+1] Σ_{k≤i} log q(z_k | z_1:k−1)
    return log_reward - log_pterm - log_q_prefix


def masked_mean(x: Tensor, counts: Tensor) -> Tensor:
    """Mean of x [B, n] over the entries that count; 0 for a row without any. Returns [B, 1]."""
    return (x * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(1)
