"""Ways to choose strings: options that contradict, worked examples, the best of several draws."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from actors.segments import Sampled
from buffer.errors import ConfigError
from buffer.types import IntArray, Prompt, given_trajectory
from deploy.commands.decoding_options import decoding_of
from deploy.driver import decoding as module
from deploy.driver.decoding import Decoding, score_decoded
from deploy.driver.preflight import Checked
from deploy.driver.worked_examples import behind_examples
from rewards.task import TRAIN, BaseLogProbs, Sample, Task, Terms
from tests.unit.test_exact_draws import SPEC, STOP, A, B, C, checked_of

DEFAULTS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "greedy": False,
    "beam": 0,
    "diverse_beam": 0,
    "best_of": 1,
    "shots": 0,
    "max_tokens": 0,
    "option": "",
}


class Numbers(Task):
    """Prompts "a" and "b"; the strings "a", "b" and "c" are listed for each, "c" with probability 0."""

    needs_base_model = False

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        return [Prompt(name, name, np.array([token], np.int32)) for name, token in (("a", A), ("b", B))]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        return {"one": np.zeros(len(token_ids) + 1)}

    def support(self) -> dict[str, list[tuple[IntArray, float]]]:
        listed = [(np.array([A], np.int32), 0.0), (np.array([B], np.int32), 0.0), (np.array([C], np.int32), -1e4)]
        return {"a": listed, "b": listed}


class Tool20:
    """A tool whose answers have up to 20 tokens."""

    triggers = frozenset({STOP})
    max_tokens = 20

    def answer(self, token_ids: IntArray) -> IntArray:
        return token_ids[:0]


class Bare(Numbers):
    """It lists nothing."""

    def support(self) -> dict[str, list[tuple[IntArray, float]]]:
        return {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"greedy": True, "temperature": 0.5}, "--greedy is --temperature 0"),
        ({"beam": 4, "diverse_beam": 4}, "give one of them"),
        ({"beam": 4, "temperature": 0.5}, "a beam search draws nothing"),
        ({"diverse_beam": 4, "best_of": 2}, "a beam search draws nothing"),
        ({"greedy": True, "best_of": 2}, "all draws are alike"),
        ({"temperature": 0.0, "top_p": 0.5}, "all draws are alike"),
        ({"shots": 2, "option": "--exact"}, "--exact needs samples of the policy"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decoding_of(**{**DEFAULTS, **options})  # type: ignore[arg-type]


def test_only_the_defaults_are_samples_of_the_policy() -> None:
    assert decoding_of(**{**DEFAULTS, "option": "--exact"}).is_sampling  # type: ignore[arg-type]
    for options in ({"greedy": True}, {"top_p": 0.9}, {"beam": 3}, {"best_of": 2}, {"shots": 1}, {"max_tokens": 5}):
        assert not decoding_of(**{**DEFAULTS, **options}).is_sampling, options  # type: ignore[arg-type]


def test_a_decoding_names_every_option() -> None:
    assert Decoding(0.5, 0.9, shots=3).words() == "temperature 0.5, top-p 0.9, worked examples 3"
    assert Decoding(beams=4, max_tokens=7).words() == "beam search, width 4, at most tokens 7"


def test_worked_examples_are_of_other_prompts_and_of_strings_with_mass() -> None:
    checked = checked_of(Numbers())
    for prompt, other in zip(checked.prompts, (B, A), strict=True):
        [seen] = behind_examples(checked, [prompt], 2, seed=0)
        assert seen.id == prompt.id and seen.token_ids[-1] == prompt.token_ids[-1]
        examples = seen.token_ids[:-1].reshape(2, 3)  # a prompt, its string, the stop; this tokenizer has no new line
        assert set(examples[:, 0]) == {other} and set(examples[:, 1]) == {A, B} and set(examples[:, 2]) == {STOP}


def test_demonstrations_are_the_worked_examples_where_there_are_some() -> None:
    checked = checked_of(Numbers())
    shown = given_trajectory(checked.prompts[0], np.array([C, C], np.int32), "demonstration")
    checked = replace(checked, demonstrations=[shown])
    [seen] = behind_examples(checked, checked.prompts[1:], 1, seed=0)
    assert seen.token_ids.tolist() == [A, C, C, STOP, B]


@pytest.mark.parametrize(("task", "words"), [(Bare(), "neither|lists no strings"), (Numbers(), "2 worked examples")])
def test_too_few_worked_examples_are_refused(task: Task, words: str) -> None:
    checked = checked_of(task)
    with pytest.raises(ConfigError, match=words):
        behind_examples(checked, checked.prompts, 3, seed=0)


def test_of_every_n_draws_the_best_is_kept_whatever_the_order_they_finish_in(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {5, 6}

    def score(checked: Checked, scorer: object, prompts: Sequence[Prompt], drawn: Sequence[Sampled]) -> list[object]:
        numbers = [int(s.request_id) for s in drawn]
        return [
            None if k in failed else Sample(s.token_ids, 0.0, float(k)) for k, s in zip(numbers, drawn, strict=True)
        ]

    monkeypatch.setattr(module, "scorer_of", lambda checked: None)
    monkeypatch.setattr(module, "score_each", score)
    empty, one = np.zeros(0, np.float32), np.zeros(1, np.bool_)
    drawn = {"a": [Sampled(str(k), np.array([k], np.int32), empty, empty, one, None) for k in range(1000)]}
    checked = checked_of(Numbers())
    [kept] = score_decoded(checked, checked.prompts[:1], [drawn], Decoding(best_of=4), seed=0)
    values = np.array([s.log_reward for s in kept["a"]])
    assert len(values) == 250 and values.mean() == pytest.approx(800, abs=40), "the largest of four of 0..999"
    failed |= set(range(1000))
    assert score_decoded(checked, checked.prompts[:1], [drawn], Decoding(best_of=4), seed=0) == [{"a": []}]


def test_longer_strings_and_a_tools_answers_get_room(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module.ModelFiles, "read", lambda folder: None)
    monkeypatch.setattr(module, "check_model", lambda config, files: seen.append(config.actors.max_model_len))
    checked = checked_of(Numbers())
    longer = module._longer(checked, Decoding(max_tokens=SPEC.max_actions + 10), more=5)
    assert longer.spec.max_actions == SPEC.max_actions + 10
    assert seen == [checked.config.actors.max_model_len + 15] == [longer.config.actors.max_model_len]
    checked.task.tool = Tool20()
    module._longer(checked, Decoding(max_tokens=SPEC.max_actions + 10))
    assert seen[-1] == checked.config.actors.max_model_len + 10 * 21


def test_max_tokens_below_the_shortest_string_is_refused() -> None:
    checked = checked_of(Numbers(), replace(SPEC, min_actions=2))
    with pytest.raises(ConfigError, match=r"--max-tokens 1 is below .*min_actions = 2"):
        module._longer(checked, Decoding(max_tokens=1))
