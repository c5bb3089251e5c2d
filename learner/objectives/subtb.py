"""Modified sub-trajectory balance: all prefixes of one trajectory agree on log Z.

Hu et al., arXiv 2310.04363 (the double sum over 0 ≤ i < j ≤ n); λ-weights of Madan et al., arXiv 2209.12782.

    L = Σ_batch Σ_{i<j} λ^(j−i−1) (u_i − u_j)²  /  Σ_batch Σ_{i<j} λ^(j−i−1)

Deviates from the paper: divided by the pooled sum of weights, so the scale does not grow with length.
"""

import torch
from torch import Tensor

from learner.objectives.balance import Estimates, Loss, masked_mean


def subtb(estimates: Estimates, lam: float) -> Loss:
    """Reads u and is_terminal [B, T+1]. λ → 0 is detailed balance."""
    is_terminal = estimates.is_terminal.to(estimates.u.dtype)
    u = estimates.u * is_terminal  # finite everywhere (balance.log_z_estimates), so times 0 it is 0
    deviation = (u - masked_mean(u, is_terminal)) * is_terminal
    n_states = is_terminal.sum(1)
    if lam == 1.0:
        # Σ_{i<j} (u_i − u_j)² = (n+1) Σ_i (u_i − mean u)²: no double loop
        numerator = (n_states * deviation.square().sum(1)).sum()
        denominator = (n_states * (n_states - 1) / 2).sum()
    else:
        numerator, denominator = _weighted_pairs(deviation, estimates.is_terminal, lam)
    residual = (deviation.square().sum(1) / n_states.clamp_min(1)).sqrt().detach()
    return Loss(numerator, denominator, residual)


def _weighted_pairs(u: Tensor, is_terminal: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """(Σ_{i<j} λ^(j−i−1) (u_i − u_j)², Σ_{i<j} λ^(j−i−1)) of `u` [B, T+1], without a tensor [B, T, T].

    For each j, Σ_i λ^(j−i−1) u_i^k follows from that of j − 1. i and j are numbers of states, not of tokens: a tool's
    text in between is no distance. In fp64, since squares of u cancel; u should be centred.
    """
    values = u.double()
    powers = torch.zeros(3, len(u), dtype=torch.float64, device=u.device)  # [k, B]
    numerator = denominator = powers.new_zeros(())
    for j in range(u.shape[1]):
        here, x = is_terminal[:, j].double(), values[:, j]
        numerator = numerator + (here * (x * x * powers[0] - 2 * x * powers[1] + powers[2])).sum()
        denominator = denominator + (here * powers[0]).sum()
        decay = torch.where(is_terminal[:, j], lam, 1.0)
        powers = decay * powers + here * torch.stack([torch.ones_like(x), x, x * x])
    return numerator.to(u.dtype), denominator.to(u.dtype)
