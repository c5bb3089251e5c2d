"""A table of logits in place of a model: trained by each objective, it becomes the posterior of an enumerated tree."""

import numpy as np
import pytest
import torch

from learner.config import ON_POLICY_OBJECTIVES
from learner.objectives import COMPARING, OBJECTIVES
from learner.objectives.balance import Estimates, last_terminal, log_q_of_strings, log_z_estimates, value_at
from tests.support.oracle import String, all_strings, log_sum, total_variation

V, N = 3, 3
STOP = V
STRINGS = all_strings(V, N)
PLACE = {z: k for k, z in enumerate(STRINGS)}


def log_probs(table: torch.Tensor, min_actions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log_pf [40, N], log_pterm [40, N+1], is_terminal [40, N+1]) of every string; table [40, V+1] logits of each prefix."""
    short = torch.tensor([len(z) < min_actions for z in STRINGS])
    blocked = short[:, None] & (torch.arange(V + 1) == STOP)
    log_q = table.masked_fill(blocked, -torch.inf).log_softmax(-1)
    at_prefix = torch.tensor([[PLACE[z[: min(i, len(z))]] for i in range(N + 1)] for z in STRINGS])
    symbol = torch.tensor([[*z, *[0] * (N - len(z))] for z in STRINGS])
    length = torch.tensor([len(z) for z in STRINGS])[:, None]
    exists = torch.arange(N + 1) <= length
    is_terminal = exists & (torch.arange(N + 1) >= min_actions)
    log_pf = torch.where(torch.arange(N) < length, log_q[at_prefix[:, :N], symbol], 0.0)
    may_stop = is_terminal & (torch.arange(N + 1) < N)
    log_pterm = torch.where(may_stop, torch.where(may_stop, log_q[at_prefix, STOP], 0.0), 0.0)
    return log_pf, log_pterm, is_terminal


def trained(
    objective: str, log_r: dict[String, float], min_actions: int, temperature: float
) -> tuple[dict[String, float], float]:
    """(q(z ⊤) of every string that may be sampled, loss), after training on all of them at once."""
    torch.manual_seed(0)
    table = torch.zeros(len(STRINGS), V + 1, dtype=torch.float64, requires_grad=True)
    prefix_r = torch.tensor([[log_r[z[: min(i, len(z))]] for i in range(N + 1)] for z in STRINGS], dtype=torch.float64)
    keep = torch.tensor([len(z) >= min_actions for z in STRINGS])
    optimiser = torch.optim.Adam([table], lr=0.05)
    for step in range(1500):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 1500)
        log_pf, log_pterm, is_terminal = (x[keep] for x in log_probs(table, min_actions))
        u = log_z_estimates(log_pf, log_pterm, prefix_r[keep] / temperature)
        group = torch.zeros(len(u), dtype=torch.int64)
        log_q = log_q_of_strings(log_pf, log_pterm, is_terminal)
        loss = OBJECTIVES[objective](Estimates(u, is_terminal, group, log_q, log_q.detach()), 1.0)
        optimiser.zero_grad()
        loss.value.backward()
        assert bool(table.grad is not None and table.grad.isfinite().all())
        optimiser.step()
    with torch.no_grad():
        log_pf, log_pterm, is_terminal = log_probs(table, min_actions)
    q = (log_pf.sum(1) + value_at(log_pterm, last_terminal(is_terminal))).exp()
    return {z: float(q[k]) for z, k in PLACE.items() if len(z) >= min_actions}, float(loss.value.detach())


def posterior(seed: int, min_actions: int, temperature: float) -> tuple[dict[String, float], dict[String, float]]:
    """(log R of all strings, R^(1/T) / Σ R^(1/T) of those that may be sampled)."""
    rng = np.random.default_rng(seed)
    log_r = {z: float(rng.normal(scale=1.5)) for z in STRINGS}
    target = {z: r / temperature for z, r in log_r.items() if len(z) >= min_actions}
    log_z = log_sum(list(target.values()))
    return log_r, {z: float(np.exp(r - log_z)) for z, r in target.items()}


@pytest.mark.parametrize(
    ("objective", "min_actions", "temperature"),
    [
        *(
            (name, 0, temperature)
            for name in ("subtb", "group_subtb", "db", "tb", "vargrad")
            for temperature in (1.0, 2.5)
        ),
        *((name, 2, 1.0) for name in sorted(COMPARING - set(ON_POLICY_OBJECTIVES))),
    ],
)
def test_the_optimum_is_the_posterior(objective: str, min_actions: int, temperature: float) -> None:
    """Also where R is tempered, and where strings shorter than `min_actions` are left out."""
    log_r, target = posterior(5, min_actions, temperature)
    q, loss = trained(objective, log_r, min_actions, temperature)
    assert sum(q.values()) == pytest.approx(1.0, abs=1e-9), "forced stop at the limit: q is a distribution"
    assert loss < 1e-4 and total_variation(q, target) < 1e-3


@pytest.mark.parametrize("objective", ["subtb", "db", "tb"])
def test_with_min_actions_an_objective_of_single_strings_has_other_optima(objective: str) -> None:
    """Strings that part before `min_actions` share no prefix with a u, so nothing binds their log Z together: the loss is 0
    and q is not the posterior. deploy/config.py refuses such a recipe."""
    log_r, target = posterior(5, 2, 1.0)
    q, loss = trained(objective, log_r, 2, 1.0)
    assert loss < 1e-4 and total_variation(q, target) > 0.1
