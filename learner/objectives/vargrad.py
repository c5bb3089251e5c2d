"""VarGrad trajectory balance: the whole strings of one prompt agree on log Z.

Richter et al., arXiv 2010.10436; as trajectory balance in Bartoldson et al., arXiv 2503.18929 (TBA).

    L = Σ_prompts Σ_k (u_n^k − mean_k u_n)² / number of strings whose prompt has at least two
"""

import torch

from learner.objectives.balance import Estimates, Loss, last_terminal, value_at


def vargrad(estimates: Estimates, lam: float) -> Loss:
    """Reads u and is_terminal [B, T+1] and group [B]; not λ. A prompt with one trajectory contributes nothing."""
    u_n, group = value_at(estimates.u, last_terminal(estimates.is_terminal)), estimates.group
    size = u_n.new_zeros(int(group.max()) + 1).index_add(0, group, u_n.new_ones(len(u_n)))  # [G]
    mean = u_n.new_zeros(len(size)).index_add(0, group, u_n) / size
    deviation = u_n - mean[group]
    compared = size[group] > 1
    residual = torch.where(compared, deviation.detach().abs(), torch.nan)
    return Loss(deviation.square().sum(), compared.sum().to(u_n.dtype), residual)
