"""The certificate: bounds, calibration, coverage and verdict, on samplers that are wrong in a known way."""

from dataclasses import replace

import numpy as np
import pytest

from rewards.judging.bootstrap import Interval
from rewards.judging.calibration import Calibration, rank
from rewards.judging.certificate import EXPLANATIONS, ExactDraws, Weighed, certificate_figures, two_sided
from rewards.judging.coverage import Evidence, coverage
from rewards.judging.verdict import total_variation_bound, verdict_with_exact_draws
from tests.support.planted import is_right, judge, judge_without_exact, planted, total_variation, toy, true_gap

GROSS = ("right", "half the strings dropped", "base model", "tempered by 0.5")


UNIVERSE = toy()
SAMPLERS = planted(UNIVERSE)


def two_sets(log_q: np.ndarray, k: int = 500, m: int = 200, seed: int = 0) -> tuple[Weighed, ExactDraws]:
    """K draws of q and M exact draws, of R = 7 p."""
    rng = np.random.default_rng(seed)
    log_r = UNIVERSE.log_p + np.log(7.0)
    drawn, exact = rng.choice(40, k, p=np.exp(log_q)), rng.choice(40, m, p=np.exp(UNIVERSE.log_p))
    return Weighed(log_r[drawn], log_q[drawn]), ExactDraws(Weighed(log_r[exact], log_q[exact]), np.full(m, 1 / m))


def test_a_perfect_sampler_has_both_bounds_at_log_z_and_no_gap() -> None:
    figures = two_sided(*two_sets(UNIVERSE.log_p))
    assert figures["log_z_low"] == pytest.approx(np.log(7.0)) and figures["log_z_high"] == pytest.approx(np.log(7.0))
    assert abs(figures["gap"]) < 1e-12 and abs(figures["kl_q_p"]) < 1e-12 and abs(figures["kl_p_q"]) < 1e-12


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "dropped" not in name])
def test_the_bounds_hold_log_z_between_them_and_the_gap_is_the_sum_of_both_divergences(name: str) -> None:
    log_q = SAMPLERS[name]
    values = [two_sided(*two_sets(log_q, seed=seed)) for seed in range(50)]
    mean = {figure: np.mean([v[figure] for v in values]) for figure in ("log_z_low", "log_z_high", "gap")}
    noise = {figure: 3.0 * np.std([v[figure] for v in values]) / np.sqrt(50) for figure in mean}
    assert mean["log_z_low"] <= np.log(7.0) + noise["log_z_low"] + 1e-9
    assert mean["log_z_high"] >= np.log(7.0) - noise["log_z_high"] - 1e-9
    assert mean["gap"] == pytest.approx(true_gap(UNIVERSE.log_p, log_q), rel=0.15, abs=0.01)


def test_divergences_are_bounded_from_above() -> None:
    p = np.exp(UNIVERSE.log_p)
    for name in ("tempered by 0.5", "tempered by 2", "one mode doubled"):
        log_q = SAMPLERS[name]
        values = [two_sided(*two_sets(log_q, k=50, seed=seed)) for seed in range(200)]
        assert np.mean([v["kl_p_q"] for v in values]) >= (p * (UNIVERSE.log_p - log_q)).sum() - 0.01
        assert np.mean([v["kl_q_p"] for v in values]) >= (np.exp(log_q) * (log_q - UNIVERSE.log_p)).sum() - 0.01


def test_the_total_variation_is_never_above_its_bound() -> None:
    for log_q in SAMPLERS.values():
        assert total_variation(UNIVERSE.log_p, log_q) <= total_variation_bound(true_gap(UNIVERSE.log_p, log_q)) + 1e-12


def test_a_sampler_that_never_draws_half_of_the_target_looks_perfect_to_its_own_draws_alone() -> None:
    log_q = SAMPLERS["half the strings dropped"]
    drawn, exact = two_sets(log_q)
    assert np.ptp(drawn.u) < 1e-9, "u is constant: KL 0, effective sample size 1, slope 1"
    figures = two_sided(drawn, exact)
    assert figures["gap"] > 10 and figures["underrated"] > 0.2


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", GROSS)
def test_the_verdict_on_gross_samplers_is_right_for_every_seed(name: str, listed: bool) -> None:
    universe = toy(listed)
    gap = true_gap(universe.log_p, SAMPLERS[name])
    verdicts = [judge(universe, SAMPLERS[name], seed, draws=400, exact_draws=100, foreign=50)[0] for seed in range(25)]
    assert [v.text for v in verdicts if not is_right(v, gap)] == []


def test_dropped_mass_is_named_and_an_example_is_shown() -> None:
    verdict, _ = judge(UNIVERSE, SAMPLERS["half the strings dropped"], 0, draws=400, exact_draws=100, foreign=50)
    assert verdict.kind == "misses mass" and "such as" in verdict.text and "u = +" in verdict.text


@pytest.mark.parametrize("listed", [True, False])
def test_a_sampler_that_collapsed_on_few_of_many_equal_strings_misses_mass_and_a_base_model_is_too_flat(
    listed: bool,
) -> None:
    """101 strings with all of the mass, and 400 others with next to none."""
    log_p = np.append(np.zeros(101), np.full(400, -15.0))
    log_p -= np.logaddexp.reduce(log_p)
    collapsed, flat = np.where(np.arange(501) < 7, 0.0, -18.0), np.zeros(501)
    universe = replace(toy(listed), log_p=log_p, log_base=flat - np.log(501))
    kinds = [
        judge(universe, log_q - np.logaddexp.reduce(log_q), seed, 2000, 100, 0)[0].kind
        for log_q in (collapsed, flat)
        for seed in range(5)
    ]
    assert kinds == ["misses mass"] * 5 + ["too flat"] * 5


def test_tempering_and_its_inverse_are_told_apart() -> None:
    assert judge(UNIVERSE, SAMPLERS["tempered by 0.5"], 0, 2000, 0, 50)[0].kind in ("too flat", "close")
    sharp = planted(toy(spread=2.5))["tempered by 2"]
    assert judge(toy(spread=2.5), sharp, 0, 2000, 0, 50)[0].kind in ("too peaked", "misses mass")


def test_few_draws_are_not_decided() -> None:
    universe = toy(listed=False)
    kinds = {judge(universe, SAMPLERS["tempered by 0.5"], seed, 8, 4, 4)[0].kind for seed in range(20)}
    assert "samples" not in kinds and "undecided" in kinds


def test_without_exact_draws_a_right_sampler_is_not_known_and_one_that_misses_mass_is_contradicted() -> None:
    for seed in range(25):
        assert judge_without_exact(UNIVERSE, UNIVERSE.log_p, seed, 400, 50).kind == "not known"
        assert judge_without_exact(UNIVERSE, SAMPLERS["half the strings dropped"], seed, 400, 50).kind == "misses mass"


def test_one_known_string_above_the_samplers_log_z_is_shown() -> None:
    """A sampler that collapsed on one wrong string of log R = -14, while a demonstration has log R = -6."""
    own = Weighed(np.full(20, -14.0), np.full(20, -0.1))
    evidence = Evidence(own, Weighed(np.array([-14.0, -6.0]), np.array([-0.1, -38.0])), ["wrong", "demonstration"])
    result = coverage(evidence)
    assert result.underrated == "demonstration" and result.underrated_u == pytest.approx(32.0)
    assert result.figures["missing"] > 0.99


def test_foreign_strings_without_mass_are_no_evidence() -> None:
    own = Weighed(np.full(200, 0.0), np.full(200, -1.0))
    junk = Weighed(np.array([0.0, *np.full(50, -40.0)]), np.array([-1.0, *np.full(50, -60.0)]))
    assert coverage(Evidence(own, junk, ["own", *["junk"] * 50])).figures["missing"] < 0.01


def test_intervals_of_the_gap_cover_it() -> None:
    log_q = SAMPLERS["one mode doubled"]
    truth, held = true_gap(UNIVERSE.log_p, log_q), 0
    for seed in range(100):
        interval = certificate_figures([two_sets(log_q, 300, 300, seed)])["gap"]
        held += interval.low <= truth <= interval.high
    assert held >= 88


def test_every_figure_is_explained() -> None:
    assert set(two_sided(*two_sets(UNIVERSE.log_p))) == set(EXPLANATIONS)


def test_ranks_of_exact_draws_are_uniform_for_a_right_sampler_and_not_for_a_flat_one() -> None:
    rng = np.random.default_rng(0)
    p, log_r = np.exp(UNIVERSE.log_p), UNIVERSE.log_p

    def calibration(log_q: np.ndarray) -> Calibration:
        exact = rng.choice(40, 300, p=p)
        return Calibration([rank(log_r[z], log_r[rng.choice(40, 99, p=np.exp(log_q))], rng) for z in exact])

    right = [calibration(UNIVERSE.log_p).p_value for _ in range(100)]
    assert 1 <= sum(p_value < 0.1 for p_value in right) <= 22
    flat = calibration(SAMPLERS["tempered by 0.5"])
    assert flat.p_value < 1e-4 and flat.counts[-1] > flat.band[1]


def test_a_gap_that_rounds_to_nothing_has_no_sign() -> None:
    verdict = verdict_with_exact_draws({"gap": Interval(8e-6, -6e-5, 7e-5)}, 0, [])
    assert verdict.text.startswith("samples the posterior (gap 0 [0, 0] nats")
