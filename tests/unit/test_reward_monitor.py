"""The reward monitor names workers that are slow, silent or failing, and no others."""

from typing import Any

import pytest

from deploy.cluster import reward_monitor
from deploy.cluster.reward_monitor import RewardMonitor


def troubles(monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], silent_s: float = 0.0) -> list[str]:
    """The sentences about one worker with this newest status that has been silent for `silent_s`."""
    monitor = RewardMonitor(time_limit_s=10.0)
    monkeypatch.setattr(monitor, "_refresh", lambda workers: None)
    monkeypatch.setattr(reward_monitor.time, "monotonic", lambda: silent_s)
    monitor._requests[0] = object(), 0.0
    monitor._statuses[0] = {"function_s": 0.01, "slowest_s": 0.02, "failed": 0, "last_failure": ""} | status
    return monitor.troubles({0: object()})


def test_a_healthy_worker_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert troubles(monkeypatch, {}) == []


def test_a_slow_function_is_named_with_its_seconds_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    [sentence] = troubles(monkeypatch, {"function_s": 1.5, "slowest_s": 7.0})
    assert sentence.startswith("reward-0: the task's log_reward is slow, 1.5 s per string on average, 7 s at most")
    assert "rewards.time_limit_s = 10" in sentence


def test_failures_are_named_with_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    [sentence] = troubles(monkeypatch, {"failed": 3, "last_failure": "log_reward raised KeyError: 'x'"})
    assert sentence == "reward-0 has quarantined 3 strings, the last one because log_reward raised KeyError: 'x'"


def test_a_silent_worker_is_named_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    [sentence] = troubles(monkeypatch, {}, silent_s=42.0)
    assert sentence.startswith("reward-0 has been at one batch for 42 s")
