"""The subjectivity task: its splits and files, what R is made of, and the posterior predictive."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.types import given_trajectory, total_log_reward
from rewards.judging.bootstrap import Interval
from rewards.task import TRAIN, BaseLogProbs, Judges, Sample, check_terms
from rewards.tasks.subjectivity import LABELS, TEST, SubjectivityTask, read_reviews

WORDS = [
    *["<unk>", "Classify", "this", "movie", "review", "as", "objective", "or", "subjective", "This", "is", "so", "it"],
    *[":", ",", ".", '"'],
]


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def rows(n: int, as_integers: bool = False) -> list[dict[str, object]]:
    """n reviews of each label."""
    return [{"text": f"{label} {k}", "label": LABELS.index(label) if as_integers else label} for k in range(n) for label in LABELS]  # fmt: skip


# --- reviews ---


def test_as_many_reviews_as_there_are_labels_are_learned_half_of_each_and_the_rest_is_tested(
    tokenizer: Tokenizer,
) -> None:
    everything = None
    for labels in (10, 20, 50):
        task = SubjectivityTask(tokenizer, labels=labels)
        learned, tested = task.prompts(TRAIN), task.prompts(TEST)
        assert [sum(p.fields["label"] == label for p in learned) for label in LABELS] == [labels // 2] * 2
        texts = {prompt.text for prompt in [*learned, *tested]}
        assert len(texts) == len({p.id for p in [*learned, *tested]}) == len(learned) + len(tested) >= 100
        assert everything in (None, texts)
        everything = texts


def test_the_seed_decides_which_reviews_are_learned_and_each_keeps_its_id(tokenizer: Tokenizer) -> None:
    one, same, other = (SubjectivityTask(tokenizer, seed=seed) for seed in (1, 1, 2))
    assert [p.id for p in one.prompts()] == [p.id for p in same.prompts()] != [p.id for p in other.prompts()]
    texts = [{p.id: p.text for split in task.splits for p in task.prompts(split)} for task in (one, other)]
    assert texts[0] == texts[1]


def test_labels_may_be_words_or_zero_and_one_and_a_text_that_comes_twice_counts_once(tmp_path: Path) -> None:
    words = read_reviews(write(tmp_path / "words.jsonl", rows(3)))
    numbers = read_reviews(write(tmp_path / "numbers.jsonl", [*rows(3, as_integers=True), *rows(2)]))
    assert words == numbers == {str(row["text"]): row["label"] for row in rows(3)}


def test_a_text_may_hold_any_line_separator(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\nfour"
    path = tmp_path / "reviews.jsonl"
    path.write_text(json.dumps({"text": text, "label": 1}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_reviews(path) == {text: "subjective"}


@pytest.mark.parametrize(
    "line",
    [
        *["nothing", "[]", "1", "null", '"text label"', "{}", '{"text": "x"}', '{"label": 1}', '{"text": "", "label": 1}'],
        *['{"text": 1, "label": 1}', '{"text": "x", "label": 2}', '{"text": "x", "label": -1}', '{"text": "x", "label": true}'],
        *['{"text": "x", "label": "1"}', '{"text": "x", "label": "Objective"}', '{"text": "x", "label": null}'],
        *['{"text": "x", "label": [1]}', '{"text": "x", "label": 1.0}'],
    ],
)  # fmt: skip
def test_a_line_that_is_no_labelled_review_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(f'{{"text": "fine", "label": 0}}\n{line}\n')
    with pytest.raises(ValueError, match=r"line 2: .* must be"):
        read_reviews(path)


def test_files_and_numbers_that_do_not_fit_are_refused_by_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "few.jsonl", rows(5))
    assert len(SubjectivityTask(tokenizer, labels=8, reviews=str(path)).prompts(TEST)) == 2
    with pytest.raises(ValueError, match="labels = 10 takes 5 objective reviews, and of 5 none would be left"):
        SubjectivityTask(tokenizer, labels=10, reviews=str(path))
    for labels in (0, -2, 7):
        with pytest.raises(ValueError, match=f"labels = {labels} must be an even number"):
            SubjectivityTask(tokenizer, labels=labels)
    with pytest.raises(ValueError, match="can't be read"):
        SubjectivityTask(tokenizer, reviews=str(tmp_path / "absent.jsonl"))
    both = write(tmp_path / "both.jsonl", [{"text": "x", "label": 0}, {"text": "x", "label": 1}])
    with pytest.raises(ValueError, match="line 2: 'x' has both labels"):
        read_reviews(both)


# --- the target ---


def test_both_labels_are_scored_after_the_rationale_and_the_right_one_comes_first(tokenizer: Tokenizer) -> None:
    task = SubjectivityTask(tokenizer)
    for prompt in task.prompts():
        requests = task.score_requests(prompt)
        assert all(request.context.tolist() == prompt.token_ids.tolist() for request in requests)
        targets = [tokenizer.decode(request.target.tolist()) for request in requests]
        right = str(prompt.fields["label"])
        assert targets == [f", so it is {label} ." for label in sorted(LABELS, key=lambda label: label != right)]
        assert right not in prompt.text.removeprefix("Classify this movie review as objective or subjective:")


def test_log_r_is_of_the_right_label_and_the_other_one_counts_for_nothing(tokenizer: Tokenizer) -> None:
    task, rng = SubjectivityTask(tokenizer), np.random.default_rng(0)
    tokens = rng.normal(-3, 1, 4).astype(np.float32)
    right, other = (
        BaseLogProbs(tokens, *rng.normal(-5, 1, (2, 5)).astype(np.float32))
        for _ in LABELS
    )  # fmt: skip
    prompt, response = task.prompts()[0], np.zeros(4, dtype=np.int32)
    terms = task.log_reward(prompt, response, [right, other])
    scored = given_trajectory(prompt, response, "test", check_terms(terms, 4, "subjectivity"), tuple(terms))
    np.testing.assert_allclose(total_log_reward(scored, {}), right.log_p_prefix + right.target, rtol=1e-6)
    np.testing.assert_array_equal(terms["_other"], other.target)


# --- judging ---


def drawn(*margins: float) -> list[Sample]:
    """Samples behind which the right label has so many nats more than the other."""
    return [Sample(np.zeros(1, np.int32), 0.0, 0.0, {"rationale": -9.0, "label": m - 5.0, "_other": -5.0}) for m in margins]  # fmt: skip


def judged(task: SubjectivityTask, samples: dict[str, list[Sample]]) -> dict[str, float]:
    figures = task.evaluate(samples, Judges())
    assert set(figures) == set(task.explanations)
    return {name: value.value if isinstance(value, Interval) else value for name, value in figures.items()}


def share(margin: float) -> float:
    return 1 / (1 + math.exp(-margin))


def test_a_label_is_predicted_by_the_mean_of_its_probabilities_not_by_votes(tokenizer: Tokenizer) -> None:
    task = SubjectivityTask(tokenizer)
    prompt = task.prompts(TEST)[0]
    two_against_one = judged(task, {prompt.id: drawn(-0.5, -0.5, 4.0)})
    mean = (2 * share(-0.5) + share(4.0)) / 3
    assert mean > 0.5 and two_against_one["accuracy"] == 1.0
    assert two_against_one["single"] == pytest.approx(1 / 3)
    assert two_against_one["log_score"] == pytest.approx(math.log(mean))
    assert judged(task, {prompt.id: drawn(0.5, 0.5, -4.0)})["accuracy"] == 0.0


def test_a_constant_prediction_is_visible(tokenizer: Tokenizer) -> None:
    task = SubjectivityTask(tokenizer)
    margin = {"subjective": 2.0, "objective": -2.0}
    figures = judged(task, {p.id: drawn(margin[str(p.fields["label"])]) for p in task.prompts(TEST)})
    assert figures["predicted_subjective"] == 1.0
    tested = task.prompts(TEST)
    assert figures["accuracy"] == pytest.approx(sum(p.fields["label"] == "subjective" for p in tested) / len(tested))


def test_a_certain_error_has_a_finite_score(tokenizer: Tokenizer) -> None:
    task = SubjectivityTask(tokenizer)
    figures = judged(task, {task.prompts(TEST)[0].id: drawn(-2000.0, -3000.0)})
    assert figures["accuracy"] == 0.0 and figures["log_score"] == pytest.approx(-2000.0 - math.log(2))
