"""The task `verifiable`: rows of any file become prompts, whole answers have rewards, bad rows are named."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer

from buffer.codec import decode, encode
from buffer.errors import ConfigError, RewardError
from buffer.types import given_trajectory, total_log_reward
from deploy.driver.exact_draws import accept, obstacle
from learner.batch import collate
from rewards.check_task import check_task
from rewards.config import RewardConfig, TermWeights
from rewards.judging.bootstrap import Interval
from rewards.scorer import Scorer
from rewards.task import BaseLogProbs, Judges, Sample, ScoreRequest
from rewards.tasks.verifiable import VerifiableTask
from tests.support.tiny_text import checked_recipe, make_text_model

ROWS = [
    {"question": "1 + 1 = ?", "answer": "2", "hints": ["add"]},
    {"question": "2 + 3 = ?", "answer": "5", "hints": []},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text-model"))


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


def write(folder: Path, rows: list[Any], kind: str = "jsonl") -> str:
    """A file, or a folder, of rows."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in rows[0] if name != "hints"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    else:
        import datasets

        data = datasets.Dataset.from_list(rows)
        if kind == "parquet":
            data.to_parquet(str(path))
        else:
            datasets.DatasetDict({"train": data, "other": data.select([1])}).save_to_disk(str(path))
    return str(path)


class Uniform:
    """A base model in which every token and every stop has 1 nat."""

    def score(self, requests: list[ScoreRequest], responses: list[Any]) -> list[BaseLogProbs]:
        return [BaseLogProbs(-np.ones(len(z)), -np.ones(len(z) + 1), np.zeros(len(z) + 1)) for z in responses]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dataset"])
def test_rows_of_every_kind_of_file_become_the_same_prompts(
    kind: str, model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    more = {"split": "train"} if kind == "dataset" else {}
    task = VerifiableTask(
        tokenizer, model, ["exact"], write(tmp_path, ROWS, kind), prompt="Q: {question}", held_out=0.5, **more
    )
    assert [(p.id, p.text) for p in task.prompts()] == [("row-1", "Q: 1 + 1 = ?")]
    assert [(p.id, p.text) for p in task.prompts("test")] == [("test-1", "Q: 2 + 3 = ?")]
    right, wrong = (np.array(tokenizer.encode(text).ids, np.int32) for text in ("5", "6"))
    terms = task.batch_terms([task.prompts("test")[0]] * 2, [right, wrong])
    assert [of_string["exact"].tolist() for of_string in terms if isinstance(of_string, Mapping)] == [[1.0], [0.0]]


def test_conversations_go_through_the_models_template(model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the answer in the data"}]
    file = write(tmp_path, [{"messages": talk, "answer": "x"}])
    task = VerifiableTask(
        tokenizer, model, ["exact"], file, prompt="messages", system="Be short.", template_arguments={"think": True}
    )
    system = "<|im_start|>system\nBe short.<|im_end|>\n"
    assert task.prompts()[0].text == system + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>"
    names = [tokenizer.id_to_token(t) for t in task.prompts()[0].token_ids[:1]]
    assert names == ["<|im_start|>"], "special tokens of the template are single tokens"
    plain = VerifiableTask(tokenizer, model, ["exact"], write(tmp_path, ROWS), prompt="question", chat=True)
    assert plain.prompts()[0].text == "<|im_start|>user\n1 + 1 = ?<|im_end|>\n<|im_start|>assistant\n"


def test_a_function_sees_conversations_as_trl_shows_them(model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "def f(prompts, completions, hints, **columns):\n"
        "    assert prompts[0][-1] == {'role': 'user', 'content': '1 + 1 = ?'} and hints == [['add']], (prompts, hints)\n"
        "    return [float(completions[0][0] == {'role': 'assistant', 'content': '2'})]\n"
    )
    task = VerifiableTask(tokenizer, model, [f"{tmp_path}/r.py:f"], write(tmp_path, ROWS), prompt="question", chat=True)
    (terms,) = task.batch_terms(task.prompts()[:1], [np.array(tokenizer.encode("2").ids, np.int32)])
    assert not isinstance(terms, RewardError) and terms["f"].tolist() == [1.0]


BAD = {
    "no column": (ROWS, {"prompt": "prompt"}, "line 1 of .* has no column 'prompt', only question, answer, hints"),
    "no answer": ([{"question": "?"}], {}, "line 1 of .* has no column 'answer', which the reward 'exact' reads"),
    "number": ([{"question": 3, "answer": "3"}], {}, "line 1 of .* is '3': it must be a text, or a list of messages"),
    "role": (
        [{"question": [{"role": "poet", "content": "x"}], "answer": ""}], {},
        "the prompt of line 1 .*: the chat template refuses it: no role poet",
    ),
    "no message": ([{"question": [{"role": "assistant", "content": "x"}], "answer": ""}], {}, "no message in front"),
    "empty": ([{"question": "", "answer": ""}], {}, "the prompt of line 1 of .* is empty"),
    "same id": ([{**row, "id": "a"} for row in ROWS], {}, "line 2 of .* has the id 'a', as an earlier row does"),
    "list": ([["a"]], {}, "line 1 of .* must be"),
    "none left": (ROWS, {"held_out": 2}, "held_out = 2 must leave one of 2 rows"),
    "two tests": (ROWS, {"held_out": 1, "test_split": "test"}, "give one of them"),
    "split of a file": (ROWS, {"split": "train"}, "only a folder of `datasets` has splits"),
    "both splits": ([*ROWS, ROWS[0]], {"held_out": 1}, "is in the training split and in 'test'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_or_option_is_named_before_anything_starts(
    name: str, model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows, options, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        VerifiableTask(tokenizer, model, ["exact"], write(tmp_path, rows), **{"prompt": "question", **options})


def test_bad_files_are_named(model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def refused(path: str, words: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=words):
            VerifiableTask(tokenizer, model, ["exact"], path, prompt="question", **options)

    (tmp_path / "a.parquet").write_text("no parquet")
    (tmp_path / "a.csv").write_text("question,answer\n1")
    refused(str(tmp_path / "a.parquet"), "not a Parquet file")
    refused(str(tmp_path / "a.csv"), "line 2 of .* another number of fields")
    refused(str(tmp_path), "not a folder of save_to_disk")
    dataset = write(tmp_path, ROWS, "dataset")
    refused(dataset, "has the splits train, other")
    refused(dataset, "'dev' is not in", split="dev")


def test_log_reward_is_that_of_kl_regularised_rl_and_only_of_whole_strings(model: Path, tmp_path: Path) -> None:
    checked = checked_recipe("verify", model, f'task.options.file="{write(tmp_path, ROWS)}"', "task.options.held_out=0")
    config, task = checked.config.rewards, checked.task
    ids = [np.array(checked.tokenizer.encode(text).ids, np.int32) for text in ("2", "so it is 3")]
    scores = Scorer(task, Uniform(), config).score([checked.prompts[0]] * 2, ids)
    rows = []
    for response, score, r in zip(ids, scores, (1.0, 0.0), strict=True):
        row = given_trajectory(checked.prompts[0], response, "on_policy", score.log_reward, score.term_names)
        row = decode(encode(row))
        assert row.log_reward.shape == (2, 1)
        assert total_log_reward(row, config.term_weights)[-1] == -(len(response) + 1) + r / config.beta
        rows.append(row)
    batch = collate(rows, checked.spec, weights=config.term_weights)
    assert batch.is_terminal.sum(1).tolist() == [1, 1], "a prefix has no reward, so it has no u"
    assert batch.log_reward_of_strings.tolist() == [-len(ids[0]) - 1 + 1 / config.beta, -len(ids[1]) - 1]
    assert len(encode(rows[1])) < len(
        encode(
            given_trajectory(checked.prompts[0], ids[1], "x", np.zeros((2, len(ids[1]) + 1), np.float32), ("a", "b"))
        )
    )


def test_a_wait_that_would_end_the_run_before_the_endpoint_is_back_is_refused(model: Path) -> None:
    endpoint = 'task.options.rewards=[{kind="http", url="http://127.0.0.1:9", patience_s=250.0, limit_s=60.0}]'
    with pytest.raises(RewardError, match="can't be reached"):
        checked_recipe("verify", model, endpoint.replace("250", "200"))
    with pytest.raises(
        ConfigError, match=r"may wait 310 s .* actors\.advanced\.wait_limit_s = 300 ends the run before"
    ):
        checked_recipe("verify", model, endpoint)


@pytest.mark.parametrize("objective", ["subtb", "db", "tb"])
def test_objectives_that_compare_prefixes_are_refused(objective: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"rewards of task 'verifiable' are of whole strings\. Set it to 'vargrad'"):
        checked_recipe("verify", model, f"learner.objective={objective}")


def test_draws_of_the_base_model_are_accepted_with_the_exact_probability(model: Path) -> None:
    """p_ref(Z) exp(r/β), with r at most 1: wrong ones with exp(−1/β), right ones always."""
    checked = checked_recipe("verify", model)
    assert obstacle(checked, 1.0) is None
    rng, beta = np.random.default_rng(0), checked.config.rewards.beta
    for r, share in ((1.0, 1.0), (0.0, np.exp(-1 / beta))):
        drawn = Sample(np.zeros(1, np.int32), -3.0, -3.0 + r / beta)
        assert np.mean([accept(checked, drawn, 1.0, rng) for _ in range(20_000)]) == pytest.approx(share, abs=0.005)
    assert "negative" in (obstacle(checked_recipe("verify", model, "rewards.weights.numeric=-1.0"), 1.0) or "")


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (ZeroDivisionError("by 0"), r"batch_terms raised ZeroDivisionError: by 0"),
        ([], "batch_terms returned 0 results for 1 string"),
    ],
)
def test_a_batch_function_that_fails_is_one_sentence_before_training(
    model: Path, monkeypatch: pytest.MonkeyPatch, results: Any, words: str
) -> None:
    def batch_terms(self: VerifiableTask, prompts: Any, responses: Any) -> Any:
        if isinstance(results, Exception):
            raise results
        return results

    monkeypatch.setattr(VerifiableTask, "batch_terms", batch_terms)
    with pytest.raises(RewardError, match=words):
        checked_recipe("verify", model)


def test_a_largest_reward_that_fp32_rounds_down_still_counts_as_correct(
    model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "r.py").write_text("def f(prompts, completions, **columns):\n    return [0.9 for _ in prompts]\n")
    reward = {"kind": "function", "function": f"{tmp_path}/r.py:f", "highest": 0.9}
    task = VerifiableTask(tokenizer, model, [reward], write(tmp_path, ROWS), prompt="question")
    prompt, ids = task.prompts()[0], np.array(tokenizer.encode("2").ids, np.int32)
    (terms,) = task.batch_terms([prompt], [ids])
    assert not isinstance(terms, RewardError)
    sample = Sample(ids, -1.0, 0.9, {name: float(value[-1]) for name, value in terms.items()})
    correct = task.evaluate({prompt.id: [sample]}, Judges())["correct"]
    assert (correct.value if isinstance(correct, Interval) else correct) == 1.0


def test_beta_divides_every_term_but_the_base_and_needs_one() -> None:
    weights = TermWeights({"accuracy": 2.0, "base": 0.5}, 0.1)
    assert (weights["base"], weights["accuracy"], weights.get("format", 1.0)) == (0.5, 20.0, 10.0)


def test_beta_without_a_base_term_is_refused(model: Path) -> None:
    checked = checked_recipe("demo", model)
    with pytest.raises(ConfigError, match="has no such term, only integer"):
        check_task(checked.task, checked.spec, checked.config.task, RewardConfig(beta=0.1), 64, checked.tokenizer, 1.0)
    falling = RewardConfig(beta_start=3.0, beta_steps=10)
    with pytest.raises(ConfigError, match="has no such term, only integer"):
        check_task(checked.task, checked.spec, checked.config.task, falling, 64, checked.tokenizer, 1.0)


def test_the_majority_is_right_where_the_most_frequent_string_is(model: Path) -> None:
    checked = checked_recipe("verify", model)
    prompts, ids = checked.prompts[:2], [np.array([k], np.int32) for k in range(3)]
    right, wrong = ({"base": -1.0, "numeric": value} for value in (1.0, 0.0))

    def drawn(*strings: tuple[int, dict[str, float]]) -> list[Sample]:
        return [Sample(ids[k], -1.0, -1.0, terms) for k, terms in strings]

    most_are_wrong = drawn((0, right), (1, wrong), (1, wrong))
    a_right_and_a_wrong_one_tie = drawn((0, right), (0, right), (1, wrong), (1, wrong))
    samples = {prompts[0].id: most_are_wrong, prompts[1].id: a_right_and_a_wrong_one_tie}
    majority = checked.task.evaluate(samples, Judges())["majority"]
    assert isinstance(majority, Interval) and majority.value == pytest.approx((0.0 + 0.5) / 2)


def test_one_over_beta_comes_linearly_to_its_last_value() -> None:
    config = RewardConfig(beta=0.5, beta_start=4.0, beta_steps=10, weights={"other": 2.0})
    factors = [config.term_weights_at(step)["r"] for step in (0, 5, 10, 99)]
    assert factors == pytest.approx([0.25, 1.125, 2.0, 2.0])
    assert config.term_weights_at(5)["other"] == pytest.approx(2.25) and config.term_weights_at(5)["base"] == 1.0
    assert config.term_weights_at(9) != config.term_weights == config.term_weights_at(10)
    assert RewardConfig(beta=0.5).term_weights_at(0) == RewardConfig(beta=0.5).term_weights
    for one in ({"beta_start": 4.0}, {"beta_steps": 10}):
        with pytest.raises(ValidationError, match="set both, or neither"):
            RewardConfig(**one)  # type: ignore[arg-type]
