"""Schedules: learning rate and reward temperature as functions of the step."""

import math

from learner.config import LearnerConfig


def learning_rate(step: int, config: LearnerConfig) -> float:
    """Linear warm-up from lr / warmup_steps, constant, then to 0 over the last `decay_fraction` of the steps.

    `step` counts from 0.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = config.decay_fraction * config.steps
    fall = min(1.0, (config.steps - step) / decay_steps) if decay_steps else 1.0
    if config.advanced.decay == "cosine":
        fall = (1.0 - math.cos(math.pi * fall)) / 2.0
    return config.learning_rate * rise * fall


def reward_temperature(step: int, config: LearnerConfig) -> float:
    """T(step) of R^(1/T): linear from start to end, then constant. `step` counts from 0: the policy after N steps has
    reached T(N)."""
    if step >= config.reward_temperature_steps:
        return config.reward_temperature_end
    done = step / config.reward_temperature_steps
    return config.reward_temperature_start + done * (config.reward_temperature_end - config.reward_temperature_start)
