"""Learning rate and reward temperature over the steps."""

import pytest

from learner.config import LearnerConfig
from learner.schedule import learning_rate, reward_temperature


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    config = LearnerConfig(steps=100, learning_rate=2.0, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[30] == rates[50] == 2.0
    assert rates[75] == pytest.approx(1.0) and rates[100] == 0.0


def test_without_warm_up_or_decay_the_rate_is_constant() -> None:
    config = LearnerConfig(steps=5, learning_rate=3.0, warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate(step, config) for step in range(5)} == {3.0}


def test_the_reward_temperature_moves_in_a_line_and_stays() -> None:
    config = LearnerConfig(reward_temperature_start=2.0, reward_temperature_end=1.0, reward_temperature_steps=10)
    assert [reward_temperature(step, config) for step in (0, 5, 10, 50)] == [2.0, 1.5, 1.0, 1.0]
