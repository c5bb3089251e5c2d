"""Learning rate, reward temperature and priorities over the steps."""

import math

import pytest
import torch
from pydantic import ValidationError

from learner.config import LearnerAdvanced, LearnerConfig
from learner.objectives.balance import Loss
from learner.priority import Priorities
from learner.schedule import learning_rate, reward_temperature


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    config = LearnerConfig(steps=100, learning_rate=2.0, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[30] == rates[50] == 2.0
    assert rates[75] == pytest.approx(1.0) and rates[100] == 0.0


def test_cosine_decay_is_slow_at_both_ends() -> None:
    config = LearnerConfig(
        steps=100, learning_rate=2.0, warmup_steps=0, decay_fraction=1.0, advanced=LearnerAdvanced(decay="cosine")
    )
    rates = [learning_rate(step, config) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([1 + math.cos(math.pi * x) for x in (0, 0.25, 0.5, 0.75, 1)])


def test_without_warm_up_or_decay_the_rate_is_constant() -> None:
    config = LearnerConfig(steps=5, learning_rate=3.0, warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate(step, config) for step in range(5)} == {3.0}


def test_the_reward_temperature_is_linear_then_constant() -> None:
    config = LearnerConfig(reward_temperature_start=2.0, reward_temperature_end=1.0, reward_temperature_steps=10)
    assert [reward_temperature(step, config) for step in (0, 5, 10, 50)] == [2.0, 1.5, 1.0, 1.0]


def test_priority_by_reward_is_relative_to_the_largest_seen_for_the_prompt_and_by_residual_is_the_residual() -> None:
    loss = Loss(torch.tensor(0.0), torch.tensor(1.0), torch.tensor([3.0, 0.5]))
    assert Priorities({"residual": 1.0}, 8.0).compute(loss, [-1.0, -9.0], 1.0, ["p", "p"], [0, 0]) == [3.0, 0.5]
    by_reward = Priorities({"reward": 1.0}, 8.0)
    assert by_reward.compute(loss, [-60.0, -61.0], 1.0, ["p", "p"], [0, 0]) == pytest.approx([1.0, math.exp(-1)])
    assert by_reward.compute(loss, [-62.0, -60.0], 1.0, ["p", "p"], [0, 0]) == pytest.approx([math.exp(-2), 1.0])
    harder = by_reward.compute(loss, [-92.0, -61.0], 1.0, ["harder", "p"], [0, 0])
    assert harder == pytest.approx([1.0, math.exp(-1)]), "a prompt with small rewards is replayed as well"
    hot = by_reward.compute(loss, [-60.0, -64.0], 4.0, ["p", "p"], [0, 0])
    assert hot == pytest.approx([1.0, math.exp(-1)]), "as the tempered target has them"


def test_priority_by_recency_halves_and_a_mixture_is_the_product_of_its_kinds() -> None:
    loss = Loss(torch.tensor(0.0), torch.tensor(1.0), torch.tensor([3.0, 0.5, math.nan]))
    assert Priorities({"recency": 1.0}, 4.0).compute(loss, [0.0] * 3, 1.0, ["p"] * 3, [0, 4, 8]) == pytest.approx(
        [1.0, 0.5, 0.25]
    )
    config = LearnerConfig(priority={"residual": 1.0, "recency": 0.5}, advanced=LearnerAdvanced(recency_half_life=4.0))
    mixed = Priorities(config.priority_shares, config.advanced.recency_half_life).compute(
        loss, [0.0] * 3, 1.0, ["p"] * 3, [0, 4, 0]
    )
    assert mixed[:2] == pytest.approx([3.0, 0.5 * 0.5**0.5]) and math.isnan(mixed[2])
    with pytest.raises(ValidationError, match="share above 0"):
        LearnerConfig(priority={"residual": 0.0})
