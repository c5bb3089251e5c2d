"""Fixtures of every test."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from buffer.types import Trajectory
from deploy.dashboard.web.security import TOKEN_VARIABLE
from tests.support.processes import Command

# the same examples every time, and no error because the machine was busy for a moment
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


os.environ.setdefault(TOKEN_VARIABLE, "")  # pages on loopback need no token, whoever else uses this machine


@pytest.fixture(scope="module", autouse=True)
def no_command_outlives_its_file() -> Iterator[None]:
    """Kills the commands that a failed test left running."""
    yield
    while Command.started:
        Command.started.pop().end()


@pytest.fixture
def make_trajectory() -> Callable[..., Trajectory]:
    """Builds a scored trajectory whose content, and so its id, is set by a number; fields can be overridden."""

    def make(number: int = 0, length: int = 5, **fields: object) -> Trajectory:
        rng = np.random.default_rng(number)
        defaults: dict[str, object] = {
            "prompt_id": f"prompt-{number}",
            "prompt_token_ids": np.array([1, 2, number], dtype=np.int32),
            "token_ids": rng.integers(0, 1000, length, dtype=np.int32),
            "is_action": np.ones(length, dtype=np.bool_),
            "log_pf": rng.normal(-2, 1, length).astype(np.float32),
            "log_pterm": rng.normal(-2, 1, length + 1).astype(np.float32),
            "policy_version": 3,
            "adapter_digest": "ab" * 32,
            "behaviour": "on_policy",
            "task": "test",
            "sampled_at": 1.7e9,
            "sampling_s": 0.25,
            "log_reward": rng.normal(-5, 2, (2, length + 1)).astype(np.float32),
            "reward_terms": ("likelihood", "length"),
            "labels": {"valid": 1.0},
            "scoring_s": 0.125,
        }
        return Trajectory(**{**defaults, **fields})  # type: ignore[arg-type]

    return make
