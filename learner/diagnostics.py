"""Is it sampling the posterior? Figures of fresh on-policy strings, and what each reads at the optimum.

Shapes   B trajectories, T response tokens, K strings of one prompt.  w = R(Z ⊤) / q(Z ⊤), so log w = u_n.
"""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from learner.objectives.balance import Estimates, last_terminal, value_at
from learner.objectives.group_subtb import group_subtb

ONE_POINT = 0.75
"""Largest share of log R's variance that one string may have: beyond it a slope describes that string alone. The same
as in rewards/judging/posterior.py."""


def select_rows(estimates: Estimates, rows: Sequence[int]) -> Estimates:
    """The given rows of a batch, without gradient, on the CPU, their prompts renumbered from 0."""
    index = torch.tensor(rows, dtype=torch.int64)
    e = estimates
    parts = (e.u, e.is_terminal, e.group, e.log_q, e.sampled_log_q)
    u, is_terminal, group, log_q, sampled = (x.detach().cpu()[index] for x in parts)
    return Estimates(u, is_terminal, group.unique(return_inverse=True)[1], log_q, sampled)


def var_u(estimates: Estimates) -> float:
    """Variance of u over all prefixes of all trajectories of a prompt, nats², pooled over prompts.

    0 at the optimum. On fresh on-policy rows it is the loss on data that replay did not choose.
    """
    if len(estimates.group) == 0:
        return float("nan")
    # the mean squared difference of pairs is twice the variance
    return float(group_subtb(estimates, 1.0).value) / 2


def posterior_figures(estimates: Estimates) -> dict[str, float]:
    """Figures of whole strings, each a mean over the prompts with two strings or more that have it; NaN if none has.

    log_z_lower   mean of u_n, nats; log Z minus KL(q ‖ p) if q sampled the strings
    log_z_mean    log-mean-exp of u_n over the K strings, nats: usually too low; both equal log Z at the optimum
    ess           effective sample size of w as a fraction of K: usually too large, 1 at the optimum
    slope, correlation   of log q(Z ⊤) against log R(Z ⊤): 1 and 1 at the optimum; omitted where all R of a prompt are
                         equal, or all but one: a line through a cluster and one string says nothing of the cluster

    The first three bound nothing in a run: versions some steps old sampled the strings, under which E[u_n] is not
    log Z − KL(q ‖ p), and K is often 2 to 8.
    """
    u_n = value_at(estimates.u, last_terminal(estimates.is_terminal)) if len(estimates.group) else estimates.log_q
    figures: dict[str, list[float]] = {
        name: [] for name in ("log_z_lower", "log_z_mean", "ess", "slope", "correlation")
    }
    for prompt in estimates.group.unique().tolist():
        rows = estimates.group == prompt
        log_w, log_q, k = u_n[rows], estimates.log_q[rows], int(rows.sum())
        if k < 2:
            continue
        figures["log_z_lower"].append(float(log_w.mean()))
        figures["log_z_mean"].append(float(log_w.logsumexp(0)) - float(torch.tensor(k).log()))
        figures["ess"].append(float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()) / k)
        for name, value in zip(("slope", "correlation"), _line(log_w + log_q, log_q), strict=True):
            if isfinite(value):
                figures[name].append(value)
    return {name: sum(values) / len(values) if values else float("nan") for name, values in figures.items()}


def exact_figures(log_q: Tensor, log_reward: Tensor, group: Tensor) -> dict[str, float]:
    """Distance of q to a target whose strings are listed; a mean over prompts.

    log_q and log_reward [K] of whole strings, nats (R already tempered), group [K] their prompt. Both read 0 at the
    optimum, without sampling noise:

    total_variation   ½ (Σ_Z |q(Z ⊤) − p(Z)| + the mass of q on strings that are not listed)
    kl                KL(p ‖ q) = Σ_Z p(Z) log (p(Z) / q(Z ⊤)), nats
    """
    distances, divergences = [], []
    for prompt in group.unique():
        rows = group == prompt
        q, log_p = log_q[rows].double(), log_reward[rows].double().log_softmax(0)
        elsewhere = (1.0 - q.exp().sum()).clamp_min(0.0)
        distances.append(float((q.exp() - log_p.exp()).abs().sum() + elsewhere) / 2)
        divergences.append(float((log_p.exp() * (log_p - q)).sum()))
    return {
        "total_variation": sum(distances) / len(distances) if distances else float("nan"),
        "kl": sum(divergences) / len(divergences) if divergences else float("nan"),
    }


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and correlation of y [K] against x [K].

    NaN where x, or for the correlation y, does not vary, and where one point has more than ONE_POINT of x's variance.
    """
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    var_x, var_y, covariance = float((x * x).sum()), float((y * y).sum()), float((x * y).sum())
    tiny = 1e-12 * len(x)
    if var_x <= tiny or float((x * x).max()) > ONE_POINT * var_x:
        return float("nan"), float("nan")
    return covariance / var_x, covariance / (var_x * var_y) ** 0.5 if var_y > tiny else float("nan")
