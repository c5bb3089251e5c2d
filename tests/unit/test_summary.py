"""The figures of a run from its rows."""

import math

import pytest

from deploy.artifacts.summary import EXACT, NOISY, figures_of_rows

NAN = float("nan")


def row(**changes: float) -> dict[str, float]:
    plain = dict.fromkeys((*NOISY, *EXACT, "log_z", "var_u"), 1.0)
    return plain | {"fresh": 4, "staleness_mean": 2.0, "staleness_max": 3, "step_s": 2.0, "wait_s": 0.5} | changes


def test_noisy_figures_are_the_median_of_the_last_ten_and_exact_ones_the_last() -> None:
    rows = [row(var_u=100.0, kl=9.0)] * 5 + [row(var_u=float(k), kl=NAN) for k in range(10)] + [row(var_u=NAN, kl=0.25)]
    figures = figures_of_rows(rows)
    assert figures["var_u"] == 4.5 and figures["posterior"]["kl"] == 0.25


def test_staleness_counts_fresh_rows_and_waits_are_a_share_of_time() -> None:
    rows = [
        row(staleness_mean=1.0, staleness_max=9),
        row(fresh=0, staleness_mean=NAN, staleness_max=NAN),
        row(wait_s=1.5),
    ]
    figures = figures_of_rows(rows)
    assert figures["staleness"] == {"mean": 1.5, "max": 9}
    assert figures["learner_waits"] == pytest.approx((0.5 + 0.5 + 1.5) / 6.0)


def test_the_figures_of_a_run_without_steps_are_nan() -> None:
    figures = figures_of_rows([])
    assert math.isnan(figures["log_z"]) and math.isnan(figures["learner_waits"])
    assert math.isnan(figures["staleness"]["mean"]) and math.isnan(figures["staleness"]["max"])
