"""Modified sub-trajectory balance: all prefixes of one trajectory agree on log Z.

Hu et al., arXiv 2310.04363 (the double sum over 0 ≤ i < j ≤ n); λ-weights of Madan et al., arXiv 2209.12782.

    L = Σ_batch Σ_{i<j} λ^(j−i−1) (u_i − u_j)²  /  Σ_batch Σ_{i<j} λ^(j−i−1)

Deviates from the paper: divided by the pooled sum of weights, so the scale does not grow with length.
"""

import torch

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
        # i and j are numbers of states, not of tokens: a tool's text in between is no distance
        place = is_terminal.cumsum(1)
        distance = place[:, None, :] - place[:, :, None]  # [B, i, j]
        real = is_terminal[:, None, :] * is_terminal[:, :, None] * (distance > 0)
        weight = real * torch.pow(torch.as_tensor(lam, dtype=u.dtype, device=u.device), (distance - 1).clamp_min(0))
        numerator = (weight * (u[:, None, :] - u[:, :, None]).square()).sum()
        denominator = weight.sum()
    residual = (deviation.square().sum(1) / n_states.clamp_min(1)).sqrt().detach()
    return Loss(numerator, denominator, residual)
