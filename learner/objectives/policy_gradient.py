"""Clipped policy gradient: climbs towards strings of high reward, as PPO and GRPO do. A baseline.

    L = − Σ_batch min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) / B,   ρ = q(Z ⊤) / q_sampled(Z ⊤)

The surrogate of PPO (Schulman et al., arXiv 1707.06347) with the advantage of GRPO (Shao et al., arXiv 2402.03300): a
string's return minus the mean of its prompt's strings in the batch, over their standard deviation. A string is one
action: ρ is the ratio of whole strings, q_sampled that of the version that sampled it.

    pg      the return is log R(Z ⊤)/T: its optimum is one string, the largest R
    pg_kl   the return is log R(Z ⊤)/T − log q_sampled(Z ⊤). Its mean is log Z − KL(q ‖ p), so the target is its
            optimum: where log R = log p_ref + r/β, this is r/β minus the KL penalty of RLHF
"""

import torch
from torch import Tensor

from learner.objectives.balance import Estimates, Loss, last_terminal, value_at

CLIP = 0.2
"""ε: a ratio further from 1 than this gives no gradient that would move it further."""
MIN_STD = 1e-6
"""Strings of equal return have the advantage 0, not 0/0."""


def policy_gradient(estimates: Estimates, lam: float) -> Loss:
    """`pg`. Reads log R and log q of whole strings and group [B]; not λ."""
    return _loss(estimates, _log_reward(estimates))


def policy_gradient_kl(estimates: Estimates, lam: float) -> Loss:
    """`pg_kl`. Likewise."""
    return _loss(estimates, _log_reward(estimates) - estimates.sampled_log_q)


def _log_reward(estimates: Estimates) -> Tensor:
    """[B] log R(Z ⊤)/T, nats, without gradient: u is log R/T − log q."""
    return (value_at(estimates.u, last_terminal(estimates.is_terminal)) + estimates.log_q).detach()


def _loss(estimates: Estimates, returns: Tensor) -> Loss:
    """The surrogate for `returns` [B], nats. All rows are equally urgent: none is replayed."""
    advantage = _advantage(returns, estimates.group)
    ratio = (estimates.log_q - estimates.sampled_log_q).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return Loss(-gain.sum(), gain.new_tensor(len(gain)), torch.ones_like(returns))


def _advantage(returns: Tensor, group: Tensor) -> Tensor:
    """[B] deviation from the mean of the group, in standard deviations of the group."""
    n_groups = int(group.max()) + 1 if len(group) else 0
    count = returns.new_zeros(n_groups).index_add(0, group, torch.ones_like(returns)).clamp_min(1)
    mean = returns.new_zeros(n_groups).index_add(0, group, returns) / count
    deviation = returns - mean[group]
    std = (returns.new_zeros(n_groups).index_add(0, group, deviation.square()) / count).sqrt()
    return deviation / std[group].clamp_min(MIN_STD)
