"""AdamW on the adapter's parameters: a spoiled state is told apart from a spoiled batch."""

import math

import pytest
import torch

from buffer.errors import TributaryError
from learner.optimiser import Optimiser


def test_moments_that_are_not_finite_end_the_run_and_blame_no_reward() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = Optimiser([parameter], 0.0, 1.0)
    for _ in range(2):
        parameter.grad = torch.ones(3)
        optimiser.step(0.1)
    state = optimiser.tensors()
    state["optimiser.0.exp_avg"][1] = math.nan
    optimiser.load(state)
    parameter.grad = torch.ones(3)
    with pytest.raises(TributaryError, match=r"moments are damaged, and no reward is to blame.*--resume"):
        optimiser.step(0.1)
