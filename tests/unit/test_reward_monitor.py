"""What is said of reward workers: nothing while all is well, and who is slow, silent or failing."""

from typing import Any

import pytest

from deploy.cluster import reward_monitor
from deploy.cluster.reward_monitor import RewardWatch


def watch(monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], silent_s: float = 0.0) -> list[str]:
    """The sentences about one worker that said `status` last and has been silent for so long."""
    found = RewardWatch(time_limit_s=10.0)
    monkeypatch.setattr(found, "_refresh", lambda workers: None)
    monkeypatch.setattr(reward_monitor.time, "monotonic", lambda: silent_s)
    found._asked[0] = object(), 0.0
    found._said[0] = {"function_s": 0.01, "slowest_s": 0.02, "failed": 0, "last_failure": ""} | status
    return found.troubles({0: object()})


def test_a_worker_that_does_well_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, {}) == []


def test_a_slow_function_is_named_with_its_seconds_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    [said] = watch(monkeypatch, {"function_s": 1.5, "slowest_s": 7.0})
    assert said.startswith("reward-0: the task's log_reward is slow, 1.5 s a string, 7 s at most")
    assert "rewards.time_limit_s = 10" in said


def test_failures_are_named_with_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    [said] = watch(monkeypatch, {"failed": 3, "last_failure": "log_reward raised KeyError: 'x'"})
    assert said == "reward-0 has set 3 strings aside, the last one because log_reward raised KeyError: 'x'"


def test_a_silent_worker_is_named_with_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    [said] = watch(monkeypatch, {}, silent_s=42.0)
    assert said.startswith("reward-0 has been at one batch for 42 s")
