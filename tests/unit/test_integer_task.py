"""The integer task: the target, its floor, and the figures that judge it."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from rewards.judging.bootstrap import Interval
from rewards.task import BaseLogProbs, Judges, Sample, check_terms
from rewards.tasks.integer import IntegerTask


@pytest.fixture
def task() -> IntegerTask:
    words = [*"0123456789", ".", "pick", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    return IntegerTask(tokenizer, prompt="pick")


def digits(number: str) -> np.ndarray:
    return np.array([int(c) for c in number], dtype=np.int32)


def log_reward(task: IntegerTask, text: str, base_tokens: float = -2.0, base_stop: float = -3.0) -> list[float]:
    n = len(text)
    per_prefix = np.full(n + 1, base_stop, np.float32)
    base_scores = [BaseLogProbs(np.full(n, base_tokens, np.float32), per_prefix, per_prefix)]
    terms = task.log_reward(task.prompts()[0], digits(text), base_scores)
    return [round(float(v), 5) for v in check_terms(terms, n, "integer").sum(0)]


def judged(task: IntegerTask, numbers: list[str]) -> dict[str, float]:
    figures = task.evaluate({"integer": [Sample(digits(text), 0.0, 0.0) for text in numbers]}, Judges())
    return {name: value.value if isinstance(value, Interval) else value for name, value in figures.items()}


def test_exactly_the_hundred_and_one_canonical_strings_are_worth_one(task: IntegerTask) -> None:
    everything = [str(k) for k in range(1000)] + [f"0{k}" for k in range(10)] + [f"{k:03d}" for k in range(100)]
    worth_one = [text for text in everything if log_reward(task, text)[-1] == 0.0]
    assert worth_one == [str(k) for k in range(101)]


def test_every_prefix_has_its_own_reward_and_the_floor_follows_the_base_model(task: IntegerTask) -> None:
    # "" floor, "1" and "10" integers, "105" floor: -5 + (3 tokens of -2) + stop of -3
    assert log_reward(task, "105") == [-8.0, 0.0, 0.0, -14.0]


def test_the_floor_weighs_at_most_epsilon_of_the_known_mass(task: IntegerTask) -> None:
    known_mass, floor = task.log_mass()
    assert known_mass == pytest.approx(math.log(101)) and floor == -5.0


def test_a_valid_share_of_one_is_not_certain(task: IntegerTask) -> None:
    drawn = [Sample(digits(str(k % 101)), 0.0, 0.0) for k in range(2000)]
    valid = task.evaluate({"integer": drawn}, Judges())["valid"]
    assert isinstance(valid, Interval) and (valid.value, valid.high) == (1.0, 1.0)
    assert valid.low == pytest.approx(0.025 ** (1 / 2000))


def test_a_uniform_sample_reads_its_noise_floor_and_a_collapsed_one_does_not(task: IntegerTask) -> None:
    rng = np.random.default_rng(0)
    uniform = judged(task, [str(k) for k in rng.integers(0, 101, size=20_000)])
    assert uniform["valid"] == 1.0 and uniform["distinct"] == 101
    assert uniform["kl_noise_floor"] == pytest.approx(100 / 40_000)
    assert uniform["kl_uniform"] == pytest.approx(uniform["kl_noise_floor"], rel=0.5)
    collapsed = judged(task, [str(k % 10) for k in range(1000)])
    assert collapsed["valid"] == 1.0 and collapsed["kl_uniform"] == pytest.approx(math.log(10.1))


def test_invalid_strings_lower_valid_and_stay_out_of_the_divergence(task: IntegerTask) -> None:
    figures = judged(task, [str(k) for k in range(101)] + ["007"] * 101)
    assert figures["valid"] == 0.5 and figures["kl_uniform"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(judged(task, ["007"])["kl_uniform"])
