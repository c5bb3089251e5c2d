"""Tasks of free text: their files and splits, rewards against plain passes of a tiny model, and the figures."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM

from buffer.types import Prompt
from deploy.config import load_recipe
from rewards.base_model import BaseModel
from rewards.judging.bootstrap import Interval
from rewards.judging.diversity import diversity
from rewards.judging.overlap import bleu4, gleu
from rewards.task import Figure, Judges, Sample, ScoreRequest, Task, check_terms
from rewards.tasks.continuation import ContinueTask
from rewards.tasks.contrastive import ContrastiveTask
from rewards.tasks.infill import InfillTask
from rewards.tasks.text_files import read_lines, read_stories, split_rows
from tests.support.tiny import VOCABULARY, make_tiny_model, tiny_spec

STOP = VOCABULARY.index(".")
STORIES = [  # one of them can't be written by a policy that ends at ".", one is too long for two tokens
    ["a b.", "b c.", "c a.", "a a.", "b b."],
    ["a a.", "b b.", "c c.", "a . b.", "c a."],
    ["b a.", "b b.", "c c.", "a b c.", "c a."],
    ["c a.", "b b.", "c c.", "c b!", "c a."],
    ["c c.", "b b.", "a c.", "b c.", "a a."],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return BaseModel(tiny_spec(folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Callable[[list[int], list[int]], float]:
    """(context, text) -> log p_LM(text | context), nats, by one pass."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()

    def log_p(context: list[int], text: list[int]) -> float:
        with torch.no_grad():
            log_p_all = model(torch.tensor([context + text])).logits[0].log_softmax(-1)
        return sum(float(log_p_all[len(context) - 1 + k, token]) for k, token in enumerate(text))

    return log_p


@pytest.fixture
def prompts_file(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("a b. \n\nb c a. \nc. \na a. \n")
    return str(path)


@pytest.fixture
def stories_file(tmp_path: Path) -> str:
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"sentences": story}) + "\n" for story in STORIES))
    return str(path)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def terms_of(task: Task, prompt: Prompt, z: list[int], base: BaseModel) -> dict[str, np.ndarray]:
    requests, tokens = task.score_requests(prompt), np.array(z, dtype=np.int32)
    terms = task.log_reward(prompt, tokens, base.score(requests, [tokens] * len(requests)))
    check_terms(terms, len(z), "text")
    return {name: np.asarray(values) for name, values in terms.items()}


def drawn(z: list[int], **terms: float) -> Sample:
    return Sample(np.array(z, dtype=np.int32), -1.0, sum(terms.values()), terms)


def values_of(figures: dict[str, Figure]) -> dict[str, float]:
    return {name: figure.value if isinstance(figure, Interval) else figure for name, figure in figures.items()}


def first_letters(texts: list[str]) -> np.ndarray:
    """Texts that begin alike are the same, others unrelated."""
    return np.eye(256, dtype=np.float32)[[ord((text or " ")[0]) for text in texts]]


# files


def test_prompts_lose_the_space_at_their_end_and_keep_the_number_of_their_line(prompts_file: str) -> None:
    assert [tuple(line) for line in read_lines(prompts_file)] == [(1, "a b."), (3, "b c a."), (4, "c."), (5, "a a.")]


def test_the_shipped_prompts_and_stories_are_the_default() -> None:
    lines, stories = read_lines(""), read_stories("")
    assert len({line.text for line in lines}) == len(lines) >= 50
    assert len(stories) >= 60 and all(len(story.sentences) == 5 for story in stories)
    assert all(line.text == line.text.strip() for line in lines)


def test_a_csv_of_rocstories_gives_the_stories_of_the_json_file(tmp_path: Path, stories_file: str) -> None:
    path = tmp_path / "roc.csv"
    rows = [["7f", "A title, with a comma", *story] for story in STORIES]
    header = "storyid,storytitle,sentence1,sentence2,sentence3,sentence4,sentence5"
    path.write_text(
        "\ufeff" + "\r\n".join([header, *(",".join(f'"{field}"' for field in row) for row in rows)]) + "\r\n",
        encoding="utf-8",
        newline="",
    )
    assert [s.sentences for s in read_stories(str(path))] == [s.sentences for s in read_stories(stories_file)]
    assert [s.number for s in read_stories(str(path))] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("s.csv", "sentence1,sentence2\na,b\n", "lacks the columns sentence3, sentence4, sentence5"),
        ("s.csv", "sentence1,sentence2,sentence3,sentence4,sentence5\na,b,c,d,e\na,b,c\n", "line 3"),
        ("s.csv", "sentence1,sentence2,sentence3,sentence4,sentence5\na,b,c,,e\n", "line 2: sentence 4 is empty"),
        ("s.csv", 'sentence1,sentence2,sentence3,sentence4,sentence5\na,b,c,d,"e\na,b,c,d,f\n', "the story after line 1"),
        ("s.csv", "", "lacks the columns"),
        ("s.jsonl", '{"sentences": ["a", "b", "c", "d", "e"]}\n\n{"sentences": ["a"\n', "line 3"),
        ("s.jsonl", '{"sentences": ["a", "b", "c", "d"]}\n', "line 1: .* must be five sentences"),
        ("s.jsonl", '{"sentences": ["a", "b", "c", "d", 5]}\n', "must be five sentences"),
        ("s.jsonl", '{"sentences": ["a", "b", "c", " ", "e"]}\n', "sentence 4 is empty"),
        ("s.jsonl", '["a", "b"]\n', "must be five sentences"),
        ("s.jsonl", "[" * 100_000 + "\n", "line 1"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_stories_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_stories(str(path))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prompts = .*can't be read"):
        read_lines(str(tmp_path / "none.txt"))
    (tmp_path / "latin.csv").write_bytes("sentence1,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"stories = .*can't be read"):
        read_stories(str(tmp_path / "latin.csv"))


def test_the_last_rows_are_held_out_and_splits_share_none() -> None:
    splits = split_rows(list(range(100)), first=11, count=20, held_out=5)
    assert splits == {"train": list(range(10, 25)), "test": list(range(25, 30))}
    assert split_rows([1, 2, 3], 1, 0, 0) == {"train": [1, 2, 3]}


@pytest.mark.parametrize(("first", "count", "held_out"), [(0, 1, 0), (1, -1, 0), (1, 0, -1), (1, 4, 0), (4, 0, 0), (1, 0, 3), (3, 2, 0)])  # fmt: skip
def test_more_rows_than_there_are_or_none_to_train_on_are_refused(first: int, count: int, held_out: int) -> None:
    with pytest.raises(ValueError, match=f"first = {first}, count = {count}, held_out = {held_out}"):
        split_rows([1, 2, 3], first, count, held_out)


def test_a_prompt_or_story_that_comes_twice_is_refused_with_both_lines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a.\nb.\na. \n")
    with pytest.raises(ValueError, match="line 3 has the same text as line 1"):
        ContinueTask(tokenizer, str(prompts), held_out=1)
    assert len(ContinueTask(tokenizer, str(prompts), count=2).prompts()) == 2
    stories = tmp_path / "s.jsonl"
    other_middle = [*STORIES[0][:3], "c c c.", STORIES[0][4]]
    stories.write_text("".join(json.dumps({"sentences": story}) + "\n" for story in [*STORIES, other_middle]))
    with pytest.raises(ValueError, match="line 6 has the same beginning and ending as line 1"):
        InfillTask(tokenizer, str(stories), held_out=1)


# continue


def test_each_prefix_of_a_continuation_is_worth_its_likelihood_with_the_stop(
    prompts_file: str, tokenizer: Tokenizer, base: BaseModel, plain: Callable[[list[int], list[int]], float]
) -> None:
    task = ContinueTask(tokenizer, prompts_file)
    prompt, z = task.prompts()[1], ids(tokenizer, "a b c c")
    assert (prompt.id, prompt.text, prompt.token_ids.tolist()) == ("line-3", "b c a.", ids(tokenizer, "b c a."))
    terms = terms_of(task, prompt, z, base)
    expected = [plain(prompt.token_ids.tolist(), [*z[:i], STOP]) for i in range(len(z) + 1)]
    assert list(terms) == ["base"] and terms["base"] == pytest.approx(expected, abs=1e-4)


def test_a_split_without_prompts_is_refused_by_name(prompts_file: str, tokenizer: Tokenizer) -> None:
    task = ContinueTask(tokenizer, prompts_file, held_out=1)
    assert [p.id for p in task.prompts("test")] == ["line-5"] and task.splits == ("train", "test")
    with pytest.raises(ValueError, match="split 'test' does not exist, only train"):
        ContinueTask(tokenizer, prompts_file).prompts("test")


def test_figures_of_a_continuation_are_means_over_samples_then_over_prompts(
    prompts_file: str, tokenizer: Tokenizer
) -> None:
    task = ContinueTask(tokenizer, prompts_file)
    ab, abb, ca = ids(tokenizer, "a b"), ids(tokenizer, "a b b"), ids(tokenizer, "c a")
    samples = {"line-1": [drawn(ab, base=-6.0), drawn(abb, base=-4.0), drawn(ab, base=-6.0)], "line-3": [drawn(ca, base=-9.0)]}  # fmt: skip
    figures = task.evaluate(samples, Judges(embed=first_letters))
    values = values_of(dict(figures))
    assert values["log_likelihood"] == pytest.approx(np.mean([np.mean([-6, -4, -6]), -9]))
    assert values["max_log_likelihood"] == pytest.approx(np.mean([-4, -9]))
    assert values["log_likelihood_per_token"] == pytest.approx(np.mean([np.mean([-6 / 3, -4 / 4, -6 / 3]), -9 / 3]))
    assert values["tokens"] == pytest.approx(np.mean([7 / 3, 2]))
    assert values["diversity"] == pytest.approx(0.0)  # all begin with a; a single sample has no diversity to average
    assert values["distinct_1"] == pytest.approx(np.mean([2 / 7, 2 / 2]))
    assert values["distinct_2"] == pytest.approx(np.mean([2 / 4, 1 / 1]))
    assert values["distinct"] == pytest.approx(np.mean([2 / 3, 1])) and values["samples"] == 4
    assert all(isinstance(figures[name], Interval) for name in values if name != "samples")
    assert set(values) == set(task.explanations)
    assert "diversity" not in task.evaluate(samples, Judges())


def test_figures_of_no_sample_are_not_known(prompts_file: str, stories_file: str, tokenizer: Tokenizer) -> None:
    judges = Judges(embed=first_letters, bert_score=lambda texts, truths: np.ones(len(texts), np.float32))
    for task in (ContinueTask(tokenizer, prompts_file), ContrastiveTask(tokenizer, prompts_file, background="a"), InfillTask(tokenizer, stories_file)):  # fmt: skip
        values = values_of(dict(task.evaluate({"line-1": []}, judges)))
        assert values.pop("samples") == 0.0 and all(math.isnan(value) for value in values.values())


# infill


def test_each_prefix_of_a_middle_is_worth_the_likelihood_of_the_story_with_its_ending(
    stories_file: str, tokenizer: Tokenizer, base: BaseModel, plain: Callable[[list[int], list[int]], float]
) -> None:
    task = InfillTask(tokenizer, stories_file)
    z = ids(tokenizer, "c a b")
    terms = terms_of(task, task.prompts()[0], z, base)
    beginning, ending = ids(tokenizer, "a b. b c. c a."), ids(tokenizer, "b b.")
    whole = [plain(beginning, [*z[:i], STOP, *ending]) for i in range(len(z) + 1)]
    assert terms["middle"] + terms["ending"] == pytest.approx(whole, abs=1e-4)
    assert terms["middle"] == pytest.approx([plain(beginning, z[:i]) for i in range(len(z) + 1)], abs=1e-4)


def test_the_policy_sees_the_ending_and_the_frozen_model_only_the_beginning(
    stories_file: str, tokenizer: Tokenizer
) -> None:
    task = InfillTask(tokenizer, stories_file)
    prompt = task.prompts()[0]
    assert prompt.text == "Beginning: a b. b c. c a.\nEnding: b b.\nMiddle:"
    assert prompt.token_ids.tolist() == ids(tokenizer, prompt.text)
    (request,) = task.score_requests(prompt)
    assert request.context.tolist() == ids(tokenizer, "a b. b c. c a.")
    assert request.target.tolist() == [STOP, *ids(tokenizer, "b b.")]


def test_a_stop_that_is_no_text_is_left_out_of_the_story(stories_file: str, tokenizer: Tokenizer) -> None:
    task = InfillTask(tokenizer, stories_file, stop="")
    (request,) = task.score_requests(task.prompts()[0])
    assert request.target.tolist() == ids(tokenizer, "b b.")
    assert task.demonstrations()[1] == ("line-2", " a . b.")  # EOS ends it, so that "." is a token like any other
    for stop in ("a b", "\n"):
        with pytest.raises(ValueError, match=r"stop = .* tokens of the model, and must be one"):
            InfillTask(tokenizer, stories_file, stop=stop)


def test_true_middles_that_the_policy_could_write_are_demonstrations(stories_file: str, tokenizer: Tokenizer) -> None:
    both = [("line-1", " a a"), ("line-3", " a b c"), ("line-5", " b c")]  # 2 holds the stop, 4 does not end in it
    assert InfillTask(tokenizer, stories_file).demonstrations() == both
    assert InfillTask(tokenizer, stories_file, held_out=1).demonstrations() == both[:2]
    assert InfillTask(tokenizer, stories_file, longest=2).demonstrations() == [both[0], both[2]]
    assert InfillTask(tokenizer, stories_file, shortest=3).demonstrations() == [both[1]]
    assert InfillTask(tokenizer, stories_file, longest=0).demonstrations() == []


def test_a_middle_is_compared_with_the_true_sentence_of_its_story(stories_file: str, tokenizer: Tokenizer) -> None:
    task = InfillTask(tokenizer, stories_file, held_out=2)
    seen: list[tuple[str, str]] = []

    def bert_score(texts: list[str], truths: list[str]) -> np.ndarray:
        seen.extend(zip(texts, truths, strict=True))
        return np.arange(len(texts), dtype=np.float32)

    z = {"line-3": ["a b c", "a b b"], "line-5": ["c c"]}
    samples = {name: [drawn(ids(tokenizer, text), middle=-2.0, ending=-3.0) for text in texts] for name, texts in z.items()}  # fmt: skip
    values = values_of(dict(task.evaluate(samples, Judges(embed=first_letters, bert_score=bert_score))))
    assert seen == [("a b c.", "a b c."), ("a b b.", "a b c."), ("c c.", "b c.")]
    assert values["bert_score"] == pytest.approx(np.mean([np.mean([0, 1]), 2]))
    for name, figure in (("bleu4", bleu4), ("gleu", gleu)):
        scores = [figure(text, truth) for text, truth in seen]
        assert values[name] == pytest.approx(np.mean([np.mean(scores[:2]), scores[2]]))
    assert values["log_reward"] == -5.0 and values["ending"] == -3.0
    assert values["diversity"] == pytest.approx(diversity(first_letters(["a", "a"])))
    assert set(values) == set(task.explanations)
    assert not {"bert_score", "diversity"} & set(task.evaluate(samples, Judges()))


# contrastive


def test_passage_and_background_have_each_their_own_power(
    prompts_file: str, tokenizer: Tokenizer, base: BaseModel, plain: Callable[[list[int], list[int]], float]
) -> None:
    task = ContrastiveTask(tokenizer, prompts_file, alpha=2.0, beta=-0.75, background="draw")
    prompt, z = task.prompts()[1], ids(tokenizer, "b b a")
    terms = terms_of(task, prompt, z, base)
    strings = [[*z[:i], STOP] for i in range(len(z) + 1)]
    given = [2.0 * plain(prompt.token_ids.tolist(), string) for string in strings]
    background = [-0.75 * plain(ids(tokenizer, "draw"), string) for string in strings]
    assert terms["given"] == pytest.approx(given, abs=1e-4)
    assert terms["background"] == pytest.approx(background, abs=1e-4)


def test_a_background_equal_to_the_passage_leaves_the_power_of_their_sum(
    prompts_file: str, tokenizer: Tokenizer, base: BaseModel
) -> None:
    task = ContrastiveTask(tokenizer, prompts_file, alpha=1.5, beta=-0.5, background="b c a.")
    prompt, z = task.prompts()[1], ids(tokenizer, "b b a")
    (log_probs,) = base.score([ScoreRequest(prompt.token_ids)], [np.array(z, dtype=np.int32)])
    terms = terms_of(task, prompt, z, base)
    assert terms["given"] + terms["background"] == pytest.approx(log_probs.log_p_stop, abs=1e-4)


@pytest.mark.parametrize(
    ("alpha", "beta", "complaint"),
    [
        (1.0, 0.0, "beta must be below 0"),
        (-1.0, -0.5, "alpha above"),
        (math.nan, -0.5, "alpha = nan"),
        (1.0, -1.0, r"alpha \+ beta = 0 must be above 0"),
        (0.5, -1.0, r"alpha \+ beta = -0.5"),
    ],
)
def test_powers_that_contrast_nothing_or_favour_noise_are_refused(
    tokenizer: Tokenizer, alpha: float, beta: float, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ContrastiveTask(tokenizer, alpha=alpha, beta=beta)


def test_a_background_without_a_token_is_refused(prompts_file: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="background = '' has no token"):
        ContrastiveTask(tokenizer, prompts_file, background="")


def test_the_information_of_a_string_is_free_of_the_powers(prompts_file: str, tokenizer: Tokenizer) -> None:
    alpha, beta, given, alone = 1.5, -0.5, -8.0, -11.0
    task = ContrastiveTask(tokenizer, prompts_file, alpha=alpha, beta=beta, background="draw")
    samples = {"line-1": [drawn(ids(tokenizer, "a b"), given=alpha * given, background=beta * alone)]}
    values = values_of(dict(task.evaluate(samples, Judges(embed=first_letters))))
    assert (values["log_likelihood"], values["background_log_likelihood"]) == pytest.approx((given, alone))
    assert values["information_per_token"] == pytest.approx((given - alone) / 3)
    assert set(values) == set(task.explanations)


# recipes


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Every word of the shipped files is a token, and every other character that is no space."""
    pieces = pre_tokenizers.Whitespace()
    texts = [line.text for line in read_lines("")] + [" ".join(story.sentences) for story in read_stories("")]
    vocabulary = {word for text in texts for word, _ in pieces.pre_tokenize_str(text)}
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(["<unk>", *sorted(vocabulary)])}, "<unk>"))
    tokenizer.pre_tokenizer = pieces
    return tokenizer


@pytest.mark.parametrize("recipe", ["infill", "infill-gpu"])
def test_every_shipped_story_that_is_trained_on_has_a_demonstration(words: Tokenizer, recipe: str) -> None:
    task = InfillTask(words, **load_recipe(recipe).task.options)  # type: ignore[arg-type]
    assert len(task.demonstrations()) == len(task.prompts())
