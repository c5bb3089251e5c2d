"""Group sub-trajectory balance: all prefixes of all trajectories of one prompt agree on log Z.

Ours: VarGrad's idea (Richter et al., arXiv 2010.10436: the batch's own mean stands for log Z) on every prefix. It adds
to SubTB the pairs of prefixes of *different* trajectories, which share nothing but log Z, so an error at one leaf is
seen by all at once.

    L = Σ_prompts Σ_{a<b} (u_a − u_b)²  /  Σ_prompts (number of pairs)

with a and b over all prefixes of all trajectories of the prompt.

Measured against plain SubTB on the integer task in docs/log.md.
"""

from learner.objectives.balance import Estimates, Loss


def group_subtb(estimates: Estimates, lam: float) -> Loss:
    """Reads u and is_terminal [B, T+1] and group [B]; not λ, since pairs across strings have no distance."""
    is_terminal, group = estimates.is_terminal.to(estimates.u.dtype), estimates.group
    u = estimates.u * is_terminal
    n_groups = int(group.max()) + 1 if len(group) else 0
    n_states = u.new_zeros(n_groups).index_add(0, group, is_terminal.sum(1))  # [G]
    mean = u.new_zeros(n_groups).index_add(0, group, u.sum(1)) / n_states.clamp_min(1)
    deviation = (u - mean[group, None]) * is_terminal
    square = deviation.square().sum(1)  # [B]
    # Σ_{a<b} (u_a − u_b)² = m Σ_a (u_a − mean)² over the m prefixes of a group
    numerator = (n_states * u.new_zeros(n_groups).index_add(0, group, square)).sum()
    denominator = (n_states * (n_states - 1) / 2).sum()
    residual = (square / is_terminal.sum(1).clamp_min(1)).sqrt().detach()
    return Loss(numerator, denominator, residual)
