"""Figures of samples against a target that is known by enumeration."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from learner import diagnostics
from learner.objectives.balance import Estimates
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.judging.posterior import EXPLANATIONS, SIDES, estimate_log_z, posterior_figures, resampled_unit
from rewards.task import Figure, Sample

STRINGS = 40


def log_normal(seed: int, spread: float = 1.0) -> np.ndarray:
    """[STRINGS] log R, nats, of a target."""
    return np.random.default_rng(seed).normal(scale=spread, size=STRINGS)


def log_normalised(log_weight: np.ndarray) -> np.ndarray:
    return np.asarray(log_weight - np.logaddexp.reduce(log_weight))


def drawn(log_reward: np.ndarray, log_q: np.ndarray, n: int, seed: int = 0) -> list[Sample]:
    """n strings of a sampler with log q [STRINGS], each its number as its one token."""
    chosen = np.random.default_rng(seed).choice(STRINGS, size=n, p=np.exp(log_q))
    return [Sample(np.array([z], np.int32), float(log_q[z]), float(log_reward[z])) for z in chosen]


def value(figure: Figure) -> float:
    return figure.value if isinstance(figure, (Interval, Bound)) else figure


def values(samples: dict[str, list[Sample]], temperature: float = 1.0) -> dict[str, float]:
    return {name: value(figure) for name, figure in posterior_figures(samples, temperature).items()}


@pytest.mark.parametrize("temperature", [1.0, 0.8, 2.0])
def test_a_sampler_of_the_tempered_target_reads_one_and_zero(temperature: float) -> None:
    log_reward = log_normal(1)
    figures = values({"x": drawn(log_reward, log_normalised(log_reward / temperature), 200)}, temperature)
    log_z = np.logaddexp.reduce(log_reward / temperature)
    assert [figures[name] for name in ("slope", "correlation", "ess")] == pytest.approx([1.0, 1.0, 1.0])
    assert [figures[name] for name in ("log_z_lower", "log_z_mean")] == pytest.approx([log_z, log_z])
    assert [figures[name] for name in ("kl_to_target", "var_u")] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_the_target_of_another_temperature_does_not_pass_for_it() -> None:
    log_reward = log_normal(1)
    log_q, log_p = log_normalised(log_reward), log_normalised(log_reward / 2)
    figures = values({"x": drawn(log_reward, log_q, 200)}, temperature=2.0)
    assert figures["slope"] == pytest.approx(2.0)
    assert figures["kl_to_target"] > 0.5 * float(np.exp(log_q) @ (log_q - log_p)) > 0


def test_the_figures_of_many_samples_are_those_of_enumeration() -> None:
    log_reward, log_q = log_normal(1), log_normalised(log_normal(2, 0.5))
    q, p, log_z = np.exp(log_q), np.exp(log_normalised(log_reward)), np.logaddexp.reduce(log_reward)
    figures = posterior_figures({"x": drawn(log_reward, log_q, 20_000)}, 1.0)
    u = log_reward - log_q
    exact = {
        "log_reward": q @ log_reward,
        "log_z_lower": q @ u,
        "log_z_mean": log_z,
        "kl_to_target": q @ np.log(q / p),
        "ess": 1 / (p @ (p / q)),
        "var_u": q @ u**2 - (q @ u) ** 2,
    }
    for name, expected in exact.items():
        figure = figures[name]
        if isinstance(figure, Interval):
            half = (figure.high - figure.low) / 2
            assert 0 < half < 0.1 and abs(figure.value - expected) < 2 * half, name
        else:
            assert name in SIDES and value(figure) == pytest.approx(expected, abs=0.03), name


def test_figures_agree_with_those_that_training_shows() -> None:
    prompts = {f"p{k}": drawn(log_normal(k), log_normalised(log_normal(10 + k)), 30, seed=k) for k in range(3)}
    rows = [(k, sample) for k, of_prompt in enumerate(prompts.values()) for sample in of_prompt]
    log_q = torch.tensor([sample.log_q for _, sample in rows], dtype=torch.float64)
    u = torch.tensor([sample.log_reward for _, sample in rows], dtype=torch.float64) - log_q
    group = torch.tensor([k for k, _ in rows])
    shown = diagnostics.posterior_figures(
        Estimates(u[:, None], torch.ones(len(rows), 1, dtype=torch.bool), group, log_q, log_q)
    )
    figures = values(prompts)
    assert {name: figures[name] for name in shown} == pytest.approx(shown, rel=1e-6)


def test_a_lower_bound_lies_in_its_interval_nineteen_times_in_twenty() -> None:
    log_reward, log_q = log_normal(1), log_normalised(log_normal(2))
    expected = float(np.exp(log_q) @ (log_reward - log_q))
    held = 0
    for seed in range(60):
        interval = posterior_figures({"x": drawn(log_reward, log_q, 100, seed)}, 1.0)["log_z_lower"]
        assert isinstance(interval, Interval)
        held += interval.low <= expected <= interval.high
    assert 50 <= held < 60


@pytest.mark.parametrize("prompts", [1, 3])
def test_a_biased_figure_is_a_bound_without_an_interval(prompts: int) -> None:
    samples = {f"p{k}": drawn(log_normal(k), log_normalised(log_normal(9)), 10, k) for k in range(prompts)}
    figures = posterior_figures(samples, 1.0)
    assert {name: f.side for name, f in figures.items() if isinstance(f, Bound)} == SIDES
    assert set(SIDES) == {"log_z_mean", "kl_to_target", "ess"}


def test_the_effective_sample_size_states_k_and_its_smallest_value() -> None:
    ess = posterior_figures({"x": drawn(log_normal(1), log_normalised(log_normal(2)), 20)}, 1.0)["ess"]
    assert isinstance(ess, Bound) and ess.note == "K = 20, 1/K = 0.05" and ess.value >= 1 / 20


def test_of_ten_samples_every_bound_is_on_its_side_on_average() -> None:
    log_reward, log_q = log_normal(1, 2.0), log_normalised(log_normal(2, 2.0))
    q, p, log_z = np.exp(log_q), np.exp(log_normalised(log_reward)), float(np.logaddexp.reduce(log_reward))
    exact = {"log_z_mean": log_z, "kl_to_target": float(q @ np.log(q / p)), "ess": float(1 / (p @ (p / q)))}
    draws = posterior_figures({str(seed): drawn(log_reward, log_q, 10, seed) for seed in range(300)}, 1.0)
    assert value(draws["log_z_mean"]) < exact["log_z_mean"] - 0.3
    assert value(draws["kl_to_target"]) < 0.9 * exact["kl_to_target"]
    assert value(draws["ess"]) > 2 * exact["ess"] and value(draws["ess"]) > 1 / 10


def test_intervals_are_over_prompts_where_there_are_several() -> None:
    offsets = {"a": 0.0, "b": 3.0, "c": 6.0}
    log_q = log_normalised(log_normal(1))
    samples = {name: drawn(log_q + log_z, log_q, 50) for name, log_z in offsets.items()}
    interval = posterior_figures(samples, 1.0)["log_z_lower"]
    assert isinstance(interval, Interval)
    ends = min(offsets.values()), max(offsets.values())
    assert (interval.value, interval.low, interval.high) == pytest.approx((np.mean(list(offsets.values())), *ends))
    assert resampled_unit(samples) == "prompts" and resampled_unit({"a": samples["a"], "b": []}) == "samples"


def test_resampling_says_nothing_of_distinct_strings_of_one_prompt() -> None:
    samples = drawn(log_normal(1), log_normalised(log_normal(1)), 30)
    share = len({sample.token_ids.tobytes() for sample in samples}) / len(samples)
    assert posterior_figures({"x": samples}, 1.0)["distinct_share"] == share


def test_equal_rewards_have_no_slope_and_leave_the_rest_known() -> None:
    figures = posterior_figures({"x": drawn(np.zeros(STRINGS), log_normalised(log_normal(1)), 50)}, 1.0)
    slope = figures["slope"]
    assert isinstance(slope, Interval) and math.isnan(slope.value) and math.isnan(slope.low)
    assert 0 < value(figures["ess"]) < 1


def test_one_string_apart_from_a_heap_of_equal_ones_makes_no_slope() -> None:
    log_q = log_normalised(log_normal(1))
    samples = [Sample(np.array([k], np.int32), log_q[k], -20.0 if k == 0 else 0.0) for k in range(STRINGS)]
    assert math.isnan(values({"x": samples})["slope"]) and math.isnan(values({"x": samples})["correlation"])
    four_apart = [Sample(s.token_ids, s.log_q, -20.0 if k < 4 else 0.0) for k, s in enumerate(samples)]
    assert math.isfinite(values({"x": four_apart})["slope"])


def test_a_string_that_is_all_but_impossible_overflows_nothing() -> None:
    samples = [Sample(np.array([k], np.int32), -1e4 * k, 5e4) for k in range(3)]
    figures = values({"x": samples})
    assert all(math.isfinite(figures[name]) for name in EXPLANATIONS if name not in ("slope", "correlation"))
    assert figures["ess"] == pytest.approx(1 / len(samples)) and figures["log_z_mean"] == pytest.approx(
        7e4 - math.log(3)
    )


@pytest.mark.parametrize("samples", [{}, {"x": []}, {"x": [Sample(np.zeros(1, np.int32), -1.0, 0.0)]}])
@pytest.mark.filterwarnings("error")
def test_fewer_than_two_samples_tell_nothing(samples: dict[str, Sequence[Sample]]) -> None:
    interval = posterior_figures(samples, 1.0)
    assert list(interval) == list(EXPLANATIONS) and all(math.isnan(value(figure)) for figure in interval.values())


def test_log_z_of_one_prompt_is_the_log_mean_of_its_weights() -> None:
    samples = drawn(log_normal(1), log_normalised(log_normal(2)), 20)
    weights = [math.exp(sample.log_reward / 2.0 - sample.log_q) for sample in samples]
    assert estimate_log_z(samples, 2.0) == pytest.approx(math.log(np.mean(weights)))
    assert math.isnan(estimate_log_z([], 1.0))
