"""The rules that every task keeps, checked on every shipped recipe with the tokenizer of a tiny model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from buffer.errors import RewardError
from buffer.types import FloatArray
from deploy.driver.preflight import Checked
from rewards.task import TRAIN, BaseLogProbs, Judges, Prompt, Sample, check_terms
from rewards.tasks.constrained import SATISFIED
from tests.support.tiny_text import RECIPES, checked_recipe, make_text_model

OTHER_CONSTRAINTS = {
    "constrained, json_schema": 'task.options.constraint={kind="json_schema", schema={type="object"}}',
    "constrained, regex": 'task.options.constraint={kind="regex", pattern=".*"}',
}
SHARED_OPTIONS = {
    "stop": lambda config: config.policy.stop,
    "max_actions": lambda config: config.policy.max_actions,
    "min_actions": lambda config: config.policy.min_actions,
    "symbols": lambda config: config.policy.allowed_tokens,
    "temperature": lambda config: config.learner.reward_temperature_end,
}
"""Option of a task -> the recipe's setting that it must equal."""


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text-model"))


@pytest.fixture(scope="module", params=[*RECIPES, *OTHER_CONSTRAINTS])
def checked(request: pytest.FixtureRequest, text_model: Path) -> Checked:
    """One recipe; building it checks that its options are those of its task."""
    if request.param in OTHER_CONSTRAINTS:
        return checked_recipe("constrained", text_model, OTHER_CONSTRAINTS[request.param])
    return checked_recipe(request.param, text_model)


def base_scores(checked: Checked, prompt: Prompt, n: int) -> list[BaseLogProbs]:
    """Made-up scores of a response of n tokens."""
    rng = np.random.default_rng(n)
    return [
        BaseLogProbs(*(rng.normal(-3.0, 1.0, size).astype(np.float32) for size in (n, n + 1, n + 1)))
        for _ in checked.task.score_requests(prompt)
    ]


def scored(checked: Checked, prompt: Prompt, token_ids: Sequence[int]) -> Sample:
    """A response with its terms."""
    ids = np.array(token_ids, np.int32)
    (more,) = checked.task.batch_terms([prompt], [ids])
    assert not isinstance(more, RewardError)
    terms = {**checked.task.log_reward(prompt, ids, base_scores(checked, prompt, len(ids))), **more}
    check_terms(terms, len(ids), checked.config.task.name, checked.task.whole_strings_only)
    last = {name: float(values[-1]) for name, values in terms.items()}
    return Sample(ids, -5.0, sum(value for name, value in last.items() if name[0] != "_"), last)


def embed(texts: Sequence[str]) -> FloatArray:
    """[N, 256] texts with the same first letter are alike, others unrelated."""
    return np.eye(256, dtype=np.float32)[[(text or " ").encode()[0] for text in texts]]


def test_a_recipe_gives_its_policy_and_its_task_the_same_settings(checked: Checked) -> None:
    config, task = checked.config, checked.task
    for name, setting in SHARED_OPTIONS.items():
        if name in config.task.options:
            assert config.task.options[name] == setting(config), name
    lengths = range(config.policy.min_actions, config.policy.max_actions + 1)
    assert all(given.is_action.sum() in lengths for given in checked.demonstrations)
    for request in task.score_requests(checked.prompts[0]):
        assert len(request.target) == 0 or request.target[0] == checked.spec.stop_token_id


def test_splits_share_no_prompt_and_no_id(checked: Checked) -> None:
    task = checked.task
    prompts = [prompt for split in task.splits for prompt in task.prompts(split)]
    assert TRAIN in task.splits and all(len(task.prompts(split)) for split in task.splits)
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == len(prompts)


def test_log_reward_is_finite_for_any_token_ids(checked: Checked) -> None:
    """Token ids that the tokenizer does not know included."""
    rng, prompt = np.random.default_rng(0), checked.prompts[0]
    for n in (0, 1, 2, 3, 4, 5, 20):
        for vocabulary in (checked.tokenizer.get_vocab_size(), 50_000):
            sample = scored(checked, prompt, rng.integers(0, vocabulary, n).tolist())
            labels = checked.task.labels(prompt, sample.token_ids)
            assert all(np.isfinite(value) for value in labels.values())


def test_every_figure_is_explained(checked: Checked) -> None:
    rng, task = np.random.default_rng(1), checked.task
    judges = Judges(embed, lambda texts, references: np.ones(len(texts), np.float32))
    for split in task.splits:
        samples = {
            prompt.id: [scored(checked, prompt, rng.integers(3, 400, n).tolist()) for n in (0, 3, 5)]
            for prompt in list(task.prompts(split))[:2]
        }
        figures = task.evaluate(samples, judges)
        by_term = {f"{kind}_{term}" for kind in ("mean", "satisfied") for term in next(iter(samples.values()))[0].terms}
        assert figures and set(figures) <= set(task.explanations) | by_term


def test_the_constrained_recipes_are_satisfied_by_a_text_with_the_words(text_model: Path) -> None:
    for name in ("constrained", "constrained-gpu"):
        checked = checked_recipe(name, text_model)
        words = checked.config.task.options["constraint"]["words"]
        good, bad = (
            scored(checked, checked.prompts[0], checked.tokenizer.encode(text).ids)
            for text in (" and ".join(words), "sun")
        )
        assert (good.terms[SATISFIED], bad.terms[SATISFIED]) == (1.0, 0.0)


def test_the_custom_recipes_show_every_kind_of_row_and_term(text_model: Path) -> None:
    for name in ("custom", "custom-gpu"):
        checked = checked_recipe(name, text_model)
        task = checked.task
        assert [p.id for split in task.splits for p in task.prompts(split)] == ["key", "cake", "bus", "dog"]
        sample = scored(checked, checked.prompts[0], checked.tokenizer.encode("So she ran").ids)
        assert {"continuation", "ending", "no_lists", "tokens"} <= set(sample.terms)
