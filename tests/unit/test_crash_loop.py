"""Restarts: how many are counted, and how long they wait."""

from collections.abc import Sequence

import pytest

from deploy.cluster.crash_loop import Deaths, Lives, restart_delay_s


def deaths_after(lives: Sequence[float], ready: bool = True) -> list[Deaths]:
    """The deaths at each start of a process with these lives, s."""
    process, now, counted = Lives(), 0.0, []
    for life in [*lives, 0.0]:
        counted.append(process.start(now))
        process.was_ready = ready
        now += life
    return counted


def test_a_process_that_dies_soon_after_each_start_waits_longer_each_time() -> None:
    delays = [restart_delay_s(deaths) for deaths in deaths_after([30.0] * 9)]
    assert delays == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("lives", "deaths"),
    [
        ([], Deaths(0, 0)),
        ([600.0] * 5, Deaths(5, 0)),
        ([10.0, 10.0, 600.0], Deaths(3, 0)),
        ([600.0, 10.0], Deaths(2, 1)),
        ([7200.0], Deaths(1, 0)),
        ([600.0, 3500.0, 3500.0], Deaths(2, 0)),
    ],
    ids=["the first start", "rare deaths", "a long life ends the row", "one short life", "a new death", "old deaths"],
)
def test_deaths_after_a_long_life_start_no_crash_loop(lives: list[float], deaths: Deaths) -> None:
    assert deaths_after(lives)[-1] == deaths


def test_a_process_that_dies_as_it_loads_is_in_a_crash_loop_however_long_it_loads() -> None:
    assert deaths_after([1800.0] * 12, ready=False)[-1] == Deaths(12, 12)
