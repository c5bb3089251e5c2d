"""Totals over actors and their restarts."""

from deploy.driver.actor_totals import ActorTotals


def status(name: str, trajectories: int, tokens: int, difference: float = 0.0, exceeded: int = 0) -> dict[str, object]:
    return {
        "name": name,
        "trajectories": trajectories,
        "tokens": tokens,
        "canary_difference_max": difference,
        "canaries_exceeded": exceeded,
        "engine_s": 3.0,
        "seconds": 4.0,
    }


def test_totals_include_what_an_actor_did_before_its_restart() -> None:
    totals = ActorTotals()
    totals.update([status("a", 10, 30, 1e-5, exceeded=1), status("b", 5, 9)])
    totals.update([status("a", 2, 6)])  # a was restarted; b did not answer
    totals.update([status("a", 4, 12, exceeded=2), status("b", 8, 20)])
    assert (totals.total("trajectories"), totals.total("tokens")) == (10 + 4 + 8, 30 + 12 + 20)
    assert totals.engine_busy == 0.75
    assert totals.canary_difference_max == 1e-5 and totals.total("canaries_exceeded") == 1 + 2
