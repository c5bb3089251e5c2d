"""The toys: the listed strings are the whole target, including the tool's text, and samples are compared with it."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.errors import ConfigError
from buffer.tool import actions_of
from rewards.check_target import MAX_FLOOR_SHARE, check_floor
from rewards.config import TaskConfig
from rewards.judging.bootstrap import Interval
from rewards.task import Judges, Sample, check_terms
from rewards.tasks import toys
from rewards.tasks.toys import ToyTask, expected_total_variation
from tests.support.oracle import all_strings, exact_policy, log_sum
from tests.support.tiny import VOCABULARY, tiny_spec

WRITES = {"b": ["c"]}


@pytest.fixture
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def listed(task: ToyTask) -> dict[tuple[int, ...], float]:
    return {tuple(ids.tolist()): value for ids, value in task.support()["toy"]}


def log_reward(task: ToyTask, ids: tuple[int, ...]) -> list[float]:
    terms = task.log_reward(task.prompts()[0], np.array(ids, dtype=np.int32), [])
    return [float(v) for v in check_terms(terms, len(ids), "toy").sum(0)]


def drawn(task: ToyTask, n: int, seed: int = 0) -> list[Sample]:
    strings, values = zip(*task.support()["toy"], strict=True)
    log_z = task.log_mass()[0]
    shares = np.exp(np.array(values) - log_z)
    picks = np.random.default_rng(seed).choice(len(strings), size=n, p=shares / shares.sum())
    return [Sample(strings[k], values[k] - log_z, values[k]) for k in picks]


def test_every_string_up_to_the_limit_is_listed_once_with_its_reward(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=3)
    assert len(listed(task)) == len(task.support()["toy"]) == len(all_strings(3, 3))
    for ids, value in listed(task).items():
        assert log_reward(task, ids)[-1] == pytest.approx(value, abs=1e-6)
    assert task.log_mass()[0] == pytest.approx(log_sum(list(listed(task).values())))


def test_log_mass_is_what_the_exact_policy_reads_at_the_root(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=3)
    ids = [VOCABULARY.index(symbol) for symbol in "abc"]
    table = {string: listed(task)[tuple(ids[v] for v in string)] for string in all_strings(3, 3)}
    assert task.log_mass()[0] == pytest.approx(exact_policy(table, 3, 3)[2])


def test_all_other_strings_of_the_vocabulary_weigh_less_than_the_share_it_claims(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=2)
    vocabulary = range(len(VOCABULARY))
    others = [
        log_reward(task, string)[-1]
        for n in range(3)
        for string in itertools.product(vocabulary, repeat=n)
        if string not in listed(task)
    ]
    known_mass, floor = task.log_mass()
    assert log_sum(others) < floor and floor - known_mass == pytest.approx(math.log(toys.FLOOR_SHARE))


@pytest.mark.parametrize("temperature", [1.0, 1.2, 1.5, 2.0, 3.0])
def test_a_floor_that_the_check_accepts_is_light_at_the_last_reward_temperature(
    tokenizer: Tokenizer, temperature: float
) -> None:
    task = ToyTask(tokenizer, max_actions=2)
    spec = replace(tiny_spec(Path("model")), allowed_token_ids=None, max_actions=2)
    every = [s for n in range(3) for s in itertools.product(range(len(VOCABULARY)), repeat=n)]
    of_target, others = (
        log_sum([log_reward(task, string)[-1] / temperature for string in every if (string in listed(task)) == wanted])
        for wanted in (True, False)
    )
    try:
        check_floor(task, spec, TaskConfig(name="toy"), temperature, len(VOCABULARY))
        assert others - of_target < math.log(MAX_FLOOR_SHARE)
    except ConfigError:
        assert temperature >= 1.5
    assert temperature < 3.0 or others - of_target > math.log(MAX_FLOOR_SHARE), "heat has raised the floor"


def test_below_min_actions_nothing_is_listed_and_the_reward_is_finite(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=3, min_actions=2)
    assert {len(ids) for ids in listed(task)} == {2, 3} and len(listed(task)) == 3**2 + 3**3
    assert all(map(math.isfinite, log_reward(task, next(iter(listed(task))))))


def test_what_the_tool_writes_is_part_of_the_strings_and_replays(tokenizer: Tokenizer) -> None:
    plain, task = ToyTask(tokenizer, max_actions=3), ToyTask(tokenizer, max_actions=3, writes=WRITES)
    a, b, c = (VOCABULARY.index(symbol) for symbol in "abc")
    assert {(), (b, c), (b, c, a), (b, c, b, c, b, c)} <= set(listed(task)) and (b,) not in listed(task)
    assert task.tool is not None and plain.tool is None
    for (ids, value), (actions, same) in zip(task.support()["toy"], plain.support()["toy"], strict=True):
        assert ids[actions_of(ids, task.tool)].tolist() == actions.tolist() and value == same
    with pytest.raises(ValueError, match="the tool writes"):
        actions_of(np.array([b, a], dtype=np.int32), task.tool)


def test_the_header_shows_the_posterior_that_the_task_gives(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=2, symbols=["a", "b"])
    rows = dict(re.findall(r"^(log R|share) +(.+?)(?:  +log Z.*)?$", toys.__doc__ or "", re.MULTILINE))
    values = np.array(list(listed(task).values()))
    assert [float(v) for v in rows["log R"].split()] == pytest.approx(values, abs=5e-4)
    assert [float(v) for v in rows["share"].split()] == pytest.approx(np.exp(values - task.log_mass()[0]), abs=5e-4)


def test_exact_draws_read_their_noise_floor_and_a_collapsed_sampler_does_not(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=3)
    figures = [task.evaluate({"toy": drawn(task, 2000, seed)}, Judges()) for seed in range(20)]
    mean = np.mean([figure["total_variation"] for figure in figures])
    assert mean == pytest.approx(figures[0]["noise_floor"], rel=0.1)
    assert figures[0]["log_z_samples"] == pytest.approx(figures[0]["log_z"])
    one = task.evaluate({"toy": drawn(task, 1) * 2000}, Judges())["total_variation"]
    assert isinstance(one, float) and one > 10 * mean


def test_strings_outside_of_the_table_count_as_distance(tokenizer: Tokenizer) -> None:
    task = ToyTask(tokenizer, max_actions=2)
    strange = Sample(np.array([0], dtype=np.int32), 0.0, 0.0)
    figures = task.evaluate({"toy": [strange] * 10}, Judges())
    assert figures["total_variation"] == pytest.approx(1.0)
    assert isinstance(figures["valid"], Interval) and figures["valid"].value == 0.0


def test_the_noise_floor_is_the_mean_over_all_outcomes_of_a_small_case() -> None:
    shares, n = np.array([0.2, 0.5, 0.3]), 3
    mean = sum(
        float(shares[list(draws)].prod()) * 0.5 * np.abs(np.bincount(draws, minlength=3) / n - shares).sum()
        for draws in itertools.product(range(3), repeat=n)
    )
    assert expected_total_variation(shares, n) == pytest.approx(mean)


def test_samples_are_judged_by_the_tempered_target(tokenizer: Tokenizer) -> None:
    cold = ToyTask(tokenizer, max_actions=2, temperature=0.5)
    values = [2.0 * value for value in listed(cold).values()]
    assert cold.log_mass()[0] == pytest.approx(log_sum(values))
    sample = Sample(np.zeros(0, np.int32), values[0] - log_sum(values), values[0] / 2.0)
    assert cold.evaluate({"toy": [sample]}, Judges())["log_z_samples"] == pytest.approx(log_sum(values))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": ["a", "draw a"]}, "one token"),
        ({"symbols": ["a", "a"]}, "twice"),
        ({"symbols": []}, "symbol"),
        ({"max_actions": 0}, "max_actions = 0"),
        ({"min_actions": 4}, "min_actions = 4"),
        ({"max_actions": 30}, "too many strings"),
        ({"spread": -1.0}, "spread = -1.0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"writes": {"x": ["c"]}}, "'x'"),
        ({"writes": {"a": []}}, "'a'"),
        ({"prompt": ""}, "prompt = ''"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_name(
    tokenizer: Tokenizer, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ToyTask(tokenizer, **({"max_actions": 3} | options))  # type: ignore[arg-type]
