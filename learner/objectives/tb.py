"""Trajectory balance with Z read off the root: the whole string and the empty one agree on log Z.

Malkin et al., arXiv 2201.13259. Here u_0 = log R(⊤) − log q(⊤ | X) stands for the learned log Z of that paper, so it is
the one pair (0, n) of sub-trajectory balance.

    L = Σ_batch (u_0 − u_n)² / B
"""

from learner.objectives.balance import Estimates, Loss, first_terminal, last_terminal, value_at


def trajectory_balance(estimates: Estimates, lam: float) -> Loss:
    """Reads u and is_terminal [B, T+1]; not λ. A trajectory of one state has no pair."""
    begin, end = first_terminal(estimates.is_terminal), last_terminal(estimates.is_terminal)
    difference = value_at(estimates.u, end) - value_at(estimates.u, begin)
    pairs = (end > begin).to(difference.dtype)
    square = difference.square() * pairs
    return Loss(square.sum(), pairs.sum(), square.sqrt().detach())
