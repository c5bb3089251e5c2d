"""Restarts within an hour are limited; those before it are forgotten."""

import pytest

from buffer import restart_budget
from buffer.restart_budget import RESTART_WINDOW_S, RestartBudget


def test_restarts_beyond_the_limit_are_refused_until_the_oldest_is_an_hour_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(restart_budget.time, "monotonic", lambda: now)
    budget = RestartBudget(2)
    assert budget.spend()
    now = 100.0
    assert budget.spend() and not budget.spend()
    now = RESTART_WINDOW_S
    assert budget.spend() and not budget.spend()


def test_a_limit_of_none_allows_none() -> None:
    assert not RestartBudget(0).spend()
