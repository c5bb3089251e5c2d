"""Length, end and entropy of completions, from batches whose strings stop, are cut off, or have no choice."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from buffer.types import PolicySpec, Prompt, Trajectory, given_trajectory
from learner.batch import collate
from learner.figures import completion_figures

PROMPT = Prompt("p", "", np.array([1], np.int32))
SPEC = PolicySpec("", "float32", 4, 4, ("q_proj",), stop_token_id=2, max_actions=4)


def string(n: int, at_the_end_only: bool = False) -> Trajectory:
    """A string of n tokens with a reward of every prefix, or of the whole string only."""
    log_reward = np.zeros((1, 1 if at_the_end_only else n + 1), np.float32)
    return given_trajectory(PROMPT, np.full(n, 5, np.int32), "on_policy", log_reward, ("r",))


def figures(strings: Sequence[Trajectory], spec: PolicySpec = SPEC, log_q: float = -6.0):
    return completion_figures(strings, collate(strings, spec), range(len(strings)), torch.full((len(strings),), log_q))


@pytest.mark.parametrize("at_the_end_only", [False, True])
def test_strings_of_max_actions_are_cut_and_shorter_ones_stopped(at_the_end_only: bool) -> None:
    found = figures([string(n, at_the_end_only) for n in (1, 2, 4, 4)])
    assert found["length"] == 2.75 and found["cut"] == 0.5 and found["stopped"] == 0.5
    assert found["entropy"] == pytest.approx(24 / (1 + 2 + 4 + 4 + 2)), "a stop that is forced is no decision"


def test_a_task_of_fixed_length_cuts_nothing_off() -> None:
    found = figures([string(4), string(4)], replace(SPEC, min_actions=4))
    assert math.isnan(found["cut"]) and math.isnan(found["stopped"]) and found["length"] == 4.0


def test_a_batch_without_rows_of_the_policy_has_none_of_them() -> None:
    assert all(
        math.isnan(value) for value in completion_figures([], collate([string(1)], SPEC), [], torch.zeros(0)).values()
    )
