"""Constraints, each on texts that meet it and that do not, and the task that samples text under one."""

import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rewards.constraints import CONSTRAINTS
from rewards.constraints.settings import Constraint, read_table
from rewards.judging.bootstrap import Interval
from rewards.task import BaseLogProbs, Judges, Sample, check_terms
from rewards.tasks.constrained import SATISFIED, ConstrainedTask
from rewards.time_limit import CallFailed, call_with_limit

RAIN = {"kind": "keywords", "words": ["r"]}
OBJECT = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A token a character; unknown characters are dropped."""
    letters = [chr(k) for k in range(32, 127)]
    made = Tokenizer(models.WordLevel({"<unk>": 0} | {c: i for i, c in enumerate(letters, 1)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    return made


@pytest.fixture
def module() -> ModuleType:
    """A module that holds functions of a user."""
    made = ModuleType("functions_of_a_user")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def build(**table: object) -> Constraint:
    return read_table(CONSTRAINTS, table, "constraint").build()


def holds(constraint: Constraint, *texts: str) -> list[bool]:
    return [value == 0.0 for value in constraint(texts)]


def base_scores(n: int) -> list[BaseLogProbs]:
    rng = np.random.default_rng(n)
    return [BaseLogProbs(*(rng.normal(-3.0, 1.0, size=k).astype(np.float32) for k in (n, n + 1, n + 1)))]


def terms(task: ConstrainedTask, tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    ids = np.array(tokenizer.encode(text).ids, dtype=np.int32)
    values = task.log_reward(task.prompts()[0], ids, base_scores(len(ids)))
    check_terms(values, len(ids), "constrained")
    return dict(values)


def test_keywords_are_whole_words_in_any_case_by_default() -> None:
    texts = ("Rain and snow.", "rain", "a train to Snowdon", "")
    assert holds(build(kind="keywords", words=["rain", "snow"]), *texts) == [True, False, False, False]
    assert holds(build(kind="keywords", words=["rain", "snow"], match="any"), *texts) == [True, True, False, False]
    assert holds(build(kind="keywords", words=["rain", "snow"], match="none"), *texts) == [False, False, True, True]
    inside = build(kind="keywords", words=["rain", "Snow"], whole_words=False, ignore_case=False)
    assert holds(inside, *texts) == [False, False, True, False]


def test_a_keyword_is_no_pattern() -> None:
    assert holds(build(kind="keywords", words=["c++ (new)"]), "in C++ (new) style", "c (new)") == [True, False]


def test_a_regex_matches_the_whole_text_unless_it_searches() -> None:
    texts = ("2024-02-29", "on 2024-02-29", "2024-02-29\n")
    date = r"\d{4}-\d\d-\d\d"
    assert holds(build(kind="regex", pattern=date), *texts) == [True, False, False]
    assert holds(build(kind="regex", pattern=date, match="search"), *texts) == [True, True, True]


def test_a_catastrophic_regex_is_left_at_the_time_limit() -> None:
    constraint = build(kind="regex", pattern="(a+)+b")
    with pytest.raises(CallFailed, match=r"time_limit_s = 0\.1"):
        call_with_limit(lambda: constraint(["a" * 60]), 0.1, "log_reward")


def test_json_must_be_one_whole_value_that_fits() -> None:
    fits = build(kind="json_schema", schema=OBJECT)
    good = ['{"a": 1}', ' {"a": 1, "b": null}\n']
    bad = [
        "",
        "{",
        '{"a": 1',
        '{"a": 1}}',
        '{"a": "1"}',
        '{"a": NaN}',
        "[1]",
        "{'a': 1}",
        "[" * 100_000,
        '{"a":' * 5000,
    ]
    assert holds(fits, *good) == [True] * len(good) and holds(fits, *bad) == [False] * len(bad)


def test_a_schema_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(OBJECT))
    assert holds(build(kind="json_schema", file=str(path)), '{"a": 1}', "{}") == [True, False]


def test_a_recursive_schema_takes_nested_values() -> None:
    tree = {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"}
    assert holds(build(kind="json_schema", schema=tree), "[[], [[]]]", "[[], [1]]") == [True, False]


def test_a_function_gives_yes_or_no_a_share_or_nats(module: ModuleType) -> None:
    module.long = lambda text: len(text) > 2
    module.share = lambda text: np.float32(len(text) / 4)
    module.nats = lambda text: -float(len(text)) if text else -math.inf
    assert build(kind="function", function="functions_of_a_user:long")(["abc", "a"]).tolist() == [0.0, -math.inf]
    share = build(kind="function", function="functions_of_a_user:share")(["", "ab", "abcd"])
    assert share == pytest.approx([-math.inf, math.log(0.5), 0.0])
    nats = build(kind="function", function="functions_of_a_user:nats", unit="nats")(["", "ab"])
    assert nats.tolist() == [-math.inf, -2.0]


@pytest.mark.parametrize(
    ("value", "unit", "error"),
    [(math.nan, "share", ValueError), (1.5, "share", ValueError), (-0.1, "share", ValueError), ("yes", "share", TypeError),
     (None, "share", TypeError), ([1.0], "nats", TypeError), (math.nan, "nats", ValueError), (math.inf, "nats", ValueError)],
)  # fmt: skip
def test_what_a_function_must_not_give_is_named_with_the_function(
    module: ModuleType, value: object, unit: str, error: type[Exception]
) -> None:
    module.odd = lambda text: value
    with pytest.raises(error, match="functions_of_a_user:odd returned"):
        build(kind="function", function="functions_of_a_user:odd", unit=unit)(["text"])


def test_a_classifier_gives_the_log_probability_of_its_label(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "good": 1, "bad": 2}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
        initializer_range=0.5, id2label={0: "calm", 1: "glad", 2: "sad"}, label2id={"calm": 0, "glad": 1, "sad": 2},
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    texts = ["good", "bad good bad", "", "good good"]
    log_c = {
        label: build(kind="classifier", folder=str(tmp_path), label=label, batch_size=3)(texts)
        for label in ("calm", "glad", "sad")
    }
    assert sum(np.exp(values) for values in log_c.values()) == pytest.approx(np.ones(4), abs=1e-5)
    with torch.inference_mode():
        alone = [model(torch.tensor([words.encode(t).ids])).logits.log_softmax(-1)[0, 1].item() for t in texts if t]
    assert log_c["glad"][[0, 1, 3]] == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match="calm, glad, sad"):
        build(kind="classifier", folder=str(tmp_path), label="angry")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "rhyme"}, "keywords"),
        ({"words": ["a"]}, "kind"),
        ({"kind": ["keywords"]}, "kind"),
        ("keywords", "must be a table"),
        ({"kind": "keywords", "words": []}, "words"),
        ({"kind": "keywords", "words": [""]}, "words.0"),
        ({"kind": "keywords", "words": "rain"}, "words"),
        ({"kind": "keywords", "words": ["a"], "whole": True}, "whole_words"),
        ({"kind": "keywords", "words": ["a"], "match": "most"}, "match"),
        ({"kind": "regex", "pattern": "("}, "regular expression"),
        ({"kind": "regex", "pattern": "a{99999999999}"}, "regular expression"),
        ({"kind": "json_schema"}, "give one of the two"),
        ({"kind": "json_schema", "schema": {"type": "text"}}, "invalid JSON schema"),
        ({"kind": "json_schema", "schema": {"$ref": "#"}}, "without end"),
        ({"kind": "json_schema", "schema": {"$ref": "#/$defs/a"}}, "refers to '/$defs/a'"),
        ({"kind": "json_schema", "schema": {"items": {"pattern": "("}}}, "invalid JSON schema"),
        ({"kind": "json_schema", "schema": {"items": {"$ref": "http://example.com/s"}}}, "nothing is downloaded"),
        ({"kind": "json_schema", "schema": {"$schema": "http://json-schema.org/draft-04/schema#"}}, "2020-12"),
        ({"kind": "json_schema", "file": "not there.json"}, "not there.json"),
        ({"kind": "function", "function": "os"}, "module:name"),
        ({"kind": "function", "function": "no_such_module:f"}, "no_such_module"),
        ({"kind": "function", "function": "os:no_such"}, "no_such"),
        ({"kind": "function", "function": "os:sep"}, "can't be called"),
        ({"kind": "classifier", "folder": "not there", "label": "x"}, "not a classifier"),
    ],
)
def test_a_table_that_is_no_constraint_is_refused_by_what_is_wrong(table: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(CONSTRAINTS, table, "constraint").build()


def test_a_failing_prefix_gets_the_floor_and_a_good_one_the_base_models_own(tokenizer: Tokenizer) -> None:
    task = ConstrainedTask(tokenizer, RAIN, ["X"], log_epsilon=-7.0)
    values = terms(task, tokenizer, "a r b")
    assert values["constraint"].tolist() == [-7.0, -7.0, -7.0, 0.0, 0.0, 0.0]
    assert values["base"].tolist() == base_scores(5)[0].log_p_stop.tolist()
    assert values[SATISFIED].tolist() == [float(value == 0.0) for value in values["constraint"]]


def test_a_penalty_makes_it_soft_and_only_a_hard_one_bounds_what_fails(tokenizer: Tokenizer) -> None:
    soft, hard = ConstrainedTask(tokenizer, RAIN, ["X"], penalty=2.0), ConstrainedTask(tokenizer, RAIN, ["X"])
    assert terms(soft, tokenizer, "a")["constraint"].tolist() == [-2.0, -2.0]
    assert math.isnan(soft.log_mass()[1]) and hard.log_mass()[1] == terms(hard, tokenizer, "a")["constraint"][0]


def test_the_constraint_reads_what_the_stop_writes(tokenizer: Tokenizer) -> None:
    schema = {"kind": "json_schema", "schema": OBJECT}
    task = ConstrainedTask(tokenizer, schema, ["X"], stop_text="}")
    assert terms(task, tokenizer, '{"a":1')[SATISFIED].tolist() == [0.0] * 6 + [1.0]
    assert task.labels(task.prompts()[0], np.array(tokenizer.encode('{"a":1').ids)) == {"satisfied": 1.0}


def test_the_share_satisfied_and_its_likelihood_are_of_samples_that_meet_it(tokenizer: Tokenizer) -> None:
    task = ConstrainedTask(tokenizer, RAIN, ["X", "Y"])
    samples: dict[str, list[Sample]] = {}
    for prompt, texts in (("train-1", ["r", "r", "a", "a r"]), ("train-2", ["a", "a", "a", "b"])):
        for text in texts:
            last = {name: float(values[-1]) for name, values in terms(task, tokenizer, text).items()}
            ids = np.array(tokenizer.encode(text).ids, dtype=np.int32)
            samples.setdefault(prompt, []).append(Sample(ids, 0.0, 0.0, last))
    figures = {k: v.value if isinstance(v, Interval) else v for k, v in task.evaluate(samples, Judges()).items()}
    good = [s.terms["base"] for s in samples["train-1"] if s.terms[SATISFIED]]
    assert figures["satisfied"] == pytest.approx((3 / 4 + 0.0) / 2)
    assert figures["log_likelihood"] == pytest.approx(np.mean(good))
    assert figures["distinct_satisfying"] == pytest.approx((2 + 0) / 2)
    assert "diversity" not in figures and set(figures) <= set(task.explanations)


def test_held_out_prompts_are_a_split_of_their_own(tokenizer: Tokenizer) -> None:
    task = ConstrainedTask(tokenizer, RAIN, ["X"], held_out=["Y"])
    assert [p.text for split in task.splits for p in task.prompts(split)] == ["X", "Y"]
    with pytest.raises(ValueError, match="'X'"):
        ConstrainedTask(tokenizer, RAIN, ["X"], held_out=["X"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"log_epsilon": 0.0}, "log_epsilon"), ({"penalty": 0.0}, "penalty"), ({"prompts": [""]}, "''")],
)
def test_an_option_that_does_not_fit_is_refused(tokenizer: Tokenizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConstrainedTask(tokenizer, **({"constraint": RAIN, "prompts": ["X"]} | options))  # type: ignore[arg-type]
