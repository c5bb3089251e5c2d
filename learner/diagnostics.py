"""Is it sampling the posterior? Figures that read 0 at the optimum whatever the data."""

from torch import Tensor

from learner.objectives.group_subtb import group_subtb


def var_u(u: Tensor, counts: Tensor, group: Tensor) -> float:
    """Variance of u over all prefixes of all trajectories of a prompt, nats², pooled over prompts.

    0 at the optimum. On fresh on-policy rows it is the loss on data that replay did not choose.
    u and counts [B, T+1], group [B].
    """
    if len(group) == 0:
        return float("nan")
    _, group = group.unique(return_inverse=True)  # the rows may be a selection of a batch: number their prompts anew
    return (
        float(group_subtb(u, counts, group, 1.0).value) / 2
    )  # the mean squared difference of pairs is twice the variance
