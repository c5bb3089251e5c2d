"""The clipped policy gradient: its gradient by hand, its clip, and the two optima that it climbs to."""

import pytest
import torch
from torch import Tensor

from learner.objectives import OBJECTIVES
from learner.objectives.balance import Estimates
from learner.objectives.policy_gradient import CLIP

LOG_R = torch.tensor([0.0, 1.0, 1.5, -1.0], dtype=torch.float64)


def estimates(log_q: Tensor, log_r: Tensor, sampled: Tensor, group: list[int] | None = None) -> Estimates:
    """Of strings with one terminal prefix each."""
    terminal = torch.ones(len(log_q), 1, dtype=torch.bool)
    return Estimates((log_r - log_q)[:, None], terminal, torch.tensor(group or [0] * len(log_q)), log_q, sampled)


def gradient(name: str, log_q: list[float], log_r: list[float], sampled: list[float], group: list[int]) -> list[float]:
    """Of the loss with respect to log q."""
    q, r, s = (torch.tensor(x, dtype=torch.float64) for x in (log_q, log_r, sampled))
    q.requires_grad_(True)
    OBJECTIVES[name](estimates(q, r, s, group), 1.0).value.backward()
    assert q.grad is not None
    return [float(x) for x in q.grad]


def test_the_gradient_is_minus_the_advantage_within_the_prompt_in_its_standard_deviations() -> None:
    fresh, rewards, groups = [-1.0, -2.0, -1.5, -0.5], [1.0, 3.0, 10.0, 10.0], [0, 0, 1, 1]
    assert gradient("pg", fresh, rewards, fresh, groups) == pytest.approx([1 / 4, -1 / 4, 0.0, 0.0])
    # returns 1 + 1, 3 + 2, 10 + 1.5 and 10 + 0.5
    assert gradient("pg_kl", fresh, rewards, fresh, groups) == pytest.approx([1 / 4, -1 / 4, -1 / 4, 1 / 4])


@pytest.mark.parametrize("log_ratio", [2 * CLIP, -2 * CLIP])
def test_a_string_that_moved_beyond_the_clip_is_not_moved_further(log_ratio: float) -> None:
    q = [-1.0 + log_ratio, -1.0 - log_ratio]
    better_first = gradient("pg", q, [2.0, 0.0], [-1.0, -1.0], [0, 0])
    worse_first = gradient("pg", q, [0.0, 2.0], [-1.0, -1.0], [0, 0])
    grew, shrank = (0, 1) if log_ratio > 0 else (1, 0)
    good_grew, good_shrank = (better_first, worse_first) if log_ratio > 0 else (worse_first, better_first)
    assert good_grew == [0.0, 0.0], "the better string has grown enough, the worse one has shrunk enough"
    assert good_shrank[grew] > 0 and good_shrank[shrank] < 0, "the wrong way round is pulled back"


def test_pg_climbs_to_the_string_of_largest_reward_and_pg_kl_to_the_posterior() -> None:
    posterior = LOG_R.softmax(0)
    assert trained("pg")[int(LOG_R.argmax())] > 0.97
    assert 0.5 * float((trained("pg_kl") - posterior).abs().sum()) < 0.04
    assert float(posterior.max()) < 0.6


def trained(name: str) -> Tensor:
    """Probabilities of the strings after training on fresh draws."""
    torch.manual_seed(0)
    theta = torch.zeros(len(LOG_R), dtype=torch.float64, requires_grad=True)
    steps = 600
    optimiser = torch.optim.Adam([theta], lr=0.05)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        log_q = theta.log_softmax(0)
        drawn = torch.multinomial(log_q.detach().exp(), 256, replacement=True)
        loss = OBJECTIVES[name](estimates(log_q[drawn], LOG_R[drawn], log_q[drawn].detach()), 1.0)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
    return theta.detach().softmax(0)
