"""The posterior's figures: their values at the optimum, and that they differ away from it."""

import math

import numpy as np
import pytest
import torch

from learner.diagnostics import exact_figures, posterior_figures, select_rows, var_u
from learner.objectives.balance import Estimates

RNG = np.random.default_rng(0)


def estimates(log_r: np.ndarray, log_q: np.ndarray, group: list[int] | None = None) -> Estimates:
    """Strings whose only prefix is the whole string: u_n = log R - log q."""
    u = torch.tensor(log_r - log_q)[:, None]
    return Estimates(
        u,
        torch.ones_like(u, dtype=torch.bool),
        torch.tensor(group or [0] * len(u)),
        torch.tensor(log_q),
        torch.tensor(log_q),
    )


def test_every_figure_has_its_documented_value_at_the_optimum() -> None:
    log_r = RNG.normal(size=50)
    figures = posterior_figures(estimates(log_r, log_r - 2.5))
    assert figures["log_z_lower"] == pytest.approx(2.5) == figures["log_z_mean"]
    assert figures["ess"] == pytest.approx(1.0)
    assert figures["slope"] == pytest.approx(1.0) == figures["correlation"]
    assert var_u(estimates(log_r, log_r - 2.5)) == pytest.approx(0.0, abs=1e-12)


def test_a_policy_that_is_too_flat_is_visible_in_slope_bounds_and_sample_size() -> None:
    log_r = RNG.normal(size=2000)
    figures = posterior_figures(estimates(log_r, 0.5 * log_r))
    assert figures["slope"] == pytest.approx(0.5) and figures["correlation"] == pytest.approx(1.0)
    # log w = log R / 2 is normal with variance 1/4: the bounds differ by 1/8, w's effective size is exp(-1/4)
    assert figures["log_z_mean"] - figures["log_z_lower"] == pytest.approx(0.125, abs=0.03)
    assert figures["ess"] == pytest.approx(math.exp(-0.25), abs=0.05)


def test_prompts_are_evaluated_separately() -> None:
    log_r = RNG.normal(size=6)
    log_z = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    e = estimates(log_r, log_r - log_z, [0, 0, 0, 1, 1, 1])
    assert posterior_figures(e)["ess"] == pytest.approx(1.0) and var_u(e) == pytest.approx(0.0, abs=1e-12)
    assert posterior_figures(select_rows(e, [0, 1, 4, 5]))["log_z_lower"] == pytest.approx(3.0)


def test_equal_rewards_have_no_slope_and_no_rows_have_no_figures() -> None:
    assert math.isnan(posterior_figures(estimates(np.zeros(4), RNG.normal(size=4)))["slope"])
    nothing = select_rows(estimates(np.zeros(2), np.zeros(2)), [])
    assert math.isnan(var_u(nothing)) and all(math.isnan(v) for v in posterior_figures(nothing).values())


def test_one_outlier_among_equal_rewards_gives_no_slope_and_does_not_affect_other_prompts() -> None:
    log_r, log_q = np.zeros(50), RNG.normal(size=50)
    log_r[7] = -20.0
    assert math.isnan(posterior_figures(estimates(log_r, log_q))["slope"])
    spread = RNG.normal(size=50)
    both = estimates(np.concatenate([log_r, spread]), np.concatenate([log_q, spread / 2]), [0] * 50 + [1] * 50)
    assert posterior_figures(both)["slope"] == pytest.approx(0.5)


def test_the_exact_distance_is_zero_at_the_target_and_includes_mass_on_unlisted_strings() -> None:
    log_r, group = torch.tensor([0.0, 1.0, 2.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 9, 9])
    log_p = torch.cat([log_r[:3].log_softmax(0), log_r[3:].log_softmax(0)])
    assert exact_figures(log_p, log_r, group) == pytest.approx({"total_variation": 0.0, "kl": 0.0}, abs=1e-6)
    half = exact_figures(log_p - math.log(2), log_r, group)  # half of q is on strings that are not listed
    assert half == pytest.approx({"total_variation": 0.5, "kl": math.log(2)}, abs=1e-6)
    swapped = exact_figures(
        torch.tensor([math.log(0.25), math.log(0.75)]), torch.log(torch.tensor([0.5, 0.5])), group[:2]
    )
    assert swapped["total_variation"] == pytest.approx(0.25)
    assert all(math.isnan(v) for v in exact_figures(log_p[:0], log_r[:0], group[:0]).values())
