"""Counts of actors that are started again."""

from deploy.driver.actor_totals import ActorTotals


def status(name: str, trajectories: int, tokens: int, difference: float = 0.0) -> dict[str, object]:
    return {
        "name": name,
        "trajectories": trajectories,
        "tokens": tokens,
        "canary_difference_max": difference,
        "engine_s": 3.0,
        "seconds": 4.0,
    }


def test_an_actor_that_starts_anew_keeps_what_it_did_before() -> None:
    tally = ActorTotals()
    tally.count([status("a", 10, 30, 1e-5), status("b", 5, 9)])
    tally.count([status("a", 2, 6)])  # a was started again; b did not answer
    tally.count([status("a", 4, 12), status("b", 8, 20)])
    assert (tally.total("trajectories"), tally.total("tokens")) == (10 + 4 + 8, 30 + 12 + 20)
    assert tally.engine_busy == 0.75
    assert tally.canary_difference_max == 1e-5
