"""The solutions task: all correct answers, their floor, and the figures that judge the samples."""

import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rewards.judging.bootstrap import Interval
from rewards.judging.pass_at_k import pass_at_k
from rewards.task import BaseLogProbs, Judges, Sample, check_terms
from rewards.tasks.solutions import SolutionsTask

SYMBOLS = [*"0123456789+.=", "pick", "<unk>"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SYMBOLS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def ids(text: str) -> np.ndarray:
    return np.array([SYMBOLS.index(c) for c in text], dtype=np.int32)


def log_reward(task: SolutionsTask, text: str) -> list[float]:
    n = len(text)
    stop = np.full(n + 1, -3.0, np.float32)
    base_scores = [BaseLogProbs(np.full(n, -2.0, np.float32), stop, stop)]
    terms = task.log_reward(task.prompts()[0], ids(text), base_scores)
    return [round(float(v), 4) for v in check_terms(terms, n, "solutions").sum(0)]


def test_every_canonical_sum_and_no_other_string_has_the_reward_1(tokenizer: Tokenizer) -> None:
    task = SolutionsTask(tokenizer, targets=[12], prompt="{n}=")
    texts = [f"{a}+{b}" for a in range(14) for b in range(14)] + [
        "12",
        "+12",
        "012+0",
        "5+07",
        "5+7+0",
        "5+7.",
        "-1+13",
    ]
    right = [text for text in texts if set(text) <= set(SYMBOLS[:12]) and log_reward(task, text)[-1] == 0.0]
    assert right == [f"{a}+{12 - a}" for a in range(13)]
    listed = {tuple(z.tolist()) for z, log_r in task.support()["12"] if log_r == 0.0}
    assert listed == {tuple(ids(text).tolist()) for text in right}
    assert task.log_mass()[0] == pytest.approx(math.log(13))


def test_a_sum_has_less_reward_the_more_it_is_off_and_what_is_no_sum_has_least(tokenizer: Tokenizer) -> None:
    # of 12: "11+" is -7 log2(1024) + (3 tokens of -2) + stop of -3, "11+1" is right, "11+10" is off by 9
    task = SolutionsTask(tokenizer, targets=[12], prompt="{n}=")
    assert log_reward(task, "11+10")[3:] == [-79.0, 0.0, pytest.approx(-7.0 * math.log2(10), abs=1e-3)]
    assert [log_reward(task, text)[-1] for text in ("6+7", "6+5", "6+9")] == [-7.0, -7.0, -14.0]


def test_the_mass_of_the_wrong_sums_is_that_of_all_of_them(tokenizer: Tokenizer) -> None:
    task = SolutionsTask(tokenizer, targets=[12], prompt="{n}=", off_by_one=-4.0)
    wrong = [f"{a}+{b}" for a in range(40) for b in range(40) if a + b != 12]
    counted = np.logaddexp.reduce([log_reward(task, text)[-1] for text in wrong])
    assert counted == pytest.approx(task.log_mass()[1], abs=1e-2)


def test_recall_counts_different_answers_of_each_prompt(tokenizer: Tokenizer) -> None:
    task = SolutionsTask(tokenizer, targets=[3, 1], held_out=[2], prompt="{n}=")
    assert [p.text for p in task.prompts()] == ["3=", "1="] and [p.id for p in task.prompts("test")] == ["2"]
    assert math.isnan(task.log_mass()[0]), "4 and 2 answers"
    drawn = {"3": ["0+3", "0+3", "3+0", "9+9"], "1": ["0+1"] * 8}
    samples = {name: [Sample(ids(text), 0.0, 0.0) for text in texts] for name, texts in drawn.items()}
    figures = task.evaluate(samples, Judges())
    correct = figures["correct"]
    assert isinstance(correct, Interval) and correct.value == (3 / 4 + 1) / 2
    assert figures["recall"] == (2 / 4 + 1 / 2) / 2 and figures["samples"] == 12


def test_pass_at_k_is_the_share_of_choices_of_k_samples_that_hold_a_correct_one() -> None:
    assert pass_at_k(4, 1, 2) == pytest.approx(1 / 2) and pass_at_k(4, 3, 2) == 1.0 and pass_at_k(4, 0, 2) == 0.0
    assert math.isnan(pass_at_k(4, 1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, "at least one number"),
        ({"targets": [5], "held_out": [5]}, "each once"),
        ({"targets": [-1]}, "none below 0"),
        ({"prompt": "a sum:"}, "must hold {n}"),
        ({"off_by_one": 0.0}, "must be below 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tokenizer: Tokenizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SolutionsTask(tokenizer, **options)  # type: ignore[arg-type]
