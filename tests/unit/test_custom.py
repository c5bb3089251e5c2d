"""The task from a TOML file alone: templates and rows, terms and their weights, and errors that name the mistake."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rewards.judging.bootstrap import Interval
from rewards.task import BaseLogProbs, Judges, Sample, check_terms
from rewards.tasks.custom import CustomTask

ROWS = [{"topic": "rain", "after": "Wet."}, {"topic": "tea", "after": "Hot."}]
LIKELY = {"kind": "continuation"}


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A token a character; unknown characters are dropped."""
    letters = [chr(k) for k in range(32, 127)]
    made = Tokenizer(models.WordLevel({"<unk>": 0} | {c: i for i, c in enumerate(letters, 1)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    return made


def make(tokenizer: Tokenizer, *terms: dict[str, object], **options: object) -> CustomTask:
    given = {"template": "About {topic}:", "rows": ROWS} | options
    return CustomTask(tokenizer, terms=list(terms) or [LIKELY], **given)  # type: ignore[arg-type]


def base_scores(n: int, seed: int = 0) -> BaseLogProbs:
    rng = np.random.default_rng(seed)
    return BaseLogProbs(*(rng.normal(-3.0, 1.0, size=k).astype(np.float32) for k in (n, n + 1, n + 1)))


def log_reward(task: CustomTask, tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    prompt, ids = task.prompts()[0], np.array(tokenizer.encode(text).ids, dtype=np.int32)
    scores = [base_scores(len(ids), seed) for seed in range(len(task.score_requests(prompt)))]
    terms = task.log_reward(prompt, ids, scores)
    check_terms(terms, len(ids), "custom")
    return dict(terms)


def test_a_template_makes_a_prompt_of_each_row_and_the_last_are_held_out(tokenizer: Tokenizer) -> None:
    task = make(tokenizer, template="{{{topic}}} {topic}", held_out=1)
    assert [p.text for p in task.prompts()] == ["{rain} rain"]
    assert [(p.id, p.text) for p in task.prompts("test")] == [("row-2", "{tea} tea")]
    assert task.prompts()[0].fields == ROWS[0]


def test_rows_come_from_a_file_or_as_whole_prompts_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row | {"id": row["topic"]}) for row in ROWS) + "\n\n")
    task = make(tokenizer, rows=None, file=str(path))
    assert [(p.id, p.text) for p in task.prompts()] == [("rain", "About rain:"), ("tea", "About tea:")]
    plain = CustomTask(tokenizer, terms=[LIKELY], prompts=["{no field}", "Go"])
    assert [p.text for p in plain.prompts()] == ["{no field}", "Go"]


def test_continuation_asks_behind_the_prompt_or_behind_a_context_of_its_own(tokenizer: Tokenizer) -> None:
    task = make(
        tokenizer, LIKELY, {"kind": "continuation", "name": "against", "weight": -0.5, "context": "Say", "stop": False}
    )
    prompt = task.prompts()[0]
    first, second = task.score_requests(prompt)
    assert (
        first.context.tolist() == prompt.token_ids.tolist() and second.context.tolist() == tokenizer.encode("Say").ids
    )
    terms = log_reward(task, tokenizer, "abc")
    assert terms["continuation"] == pytest.approx(base_scores(3, 0).log_p_stop)
    assert terms["against"] == pytest.approx(-0.5 * base_scores(3, 1).log_p_prefix)


def test_a_target_stands_straight_behind_the_string_and_is_the_rows_own(tokenizer: Tokenizer) -> None:
    task = make(tokenizer, {"kind": "target", "target": " {after}", "weight": 2.0})
    targets = [task.score_requests(prompt)[0].target.tolist() for prompt in task.prompts()]
    assert targets == [tokenizer.encode(f" {row['after']}").ids for row in ROWS]
    assert log_reward(task, tokenizer, "ab")["target"] == pytest.approx(2.0 * base_scores(2).target)


def test_a_hard_constraint_has_the_floor_and_a_soft_one_its_penalty(tokenizer: Tokenizer) -> None:
    words = {"kind": "keywords", "words": ["b"]}
    task = make(tokenizer, LIKELY, words, words | {"name": "soft", "penalty": 2.0, "weight": 1.5}, log_epsilon=-9.0)
    terms = log_reward(task, tokenizer, "a b")
    assert terms["keywords"].tolist() == [-9.0, -9.0, -9.0, 0.0]
    assert terms["soft"].tolist() == [-3.0, -3.0, -3.0, 0.0]
    assert terms["_satisfied_keywords"].tolist() == terms["_satisfied_soft"].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_length_takes_nats_for_tokens_outside_of_its_limits(tokenizer: Tokenizer) -> None:
    task = make(tokenizer, LIKELY, {"kind": "length", "per_token": 0.5, "least": 1, "most": 2})
    assert log_reward(task, tokenizer, "abcd")["tokens"].tolist() == [-0.5, 0.0, 0.0, -0.5, -1.0]
    task = make(tokenizer, LIKELY, {"kind": "length", "per_token": 0.5, "least": 2})
    assert log_reward(task, tokenizer, "abcd")["tokens"].tolist() == [-1.0, -0.5, 0.0, 0.0, 0.0]
    task = make(tokenizer, LIKELY, {"kind": "length", "per_token": 0.5, "most": 0})
    assert log_reward(task, tokenizer, "abcd")["tokens"].tolist() == [0.0, -0.5, -1.0, -1.5, -2.0]


def test_without_a_term_of_the_model_no_model_is_loaded(tokenizer: Tokenizer) -> None:
    task = make(tokenizer, {"kind": "keywords", "words": ["b"], "penalty": 1.0})
    assert not task.needs_base_model and list(task.score_requests(task.prompts()[0])) == []
    assert log_reward(task, tokenizer, "b")["keywords"].tolist() == [-1.0, 0.0]


def test_every_term_and_every_constraint_has_its_figure(tokenizer: Tokenizer) -> None:
    task = make(tokenizer, LIKELY, {"kind": "keywords", "words": ["b"], "penalty": 1.0})
    drawn = []
    for text in ("b", "a"):
        last = {name: float(values[-1]) for name, values in log_reward(task, tokenizer, text).items()}
        drawn.append(Sample(np.array(tokenizer.encode(text).ids, dtype=np.int32), 0.0, 0.0, last))

    def embed(texts: object) -> np.ndarray:
        return np.eye(2, dtype=np.float32)

    figures = task.evaluate({"row-1": drawn}, Judges(embed=embed))
    values = {name: v.value if isinstance(v, Interval) else v for name, v in figures.items()}
    assert values["satisfied_keywords"] == 0.5 and values["mean_keywords"] == -0.5 and values["diversity"] == 1.0
    assert values["mean_continuation"] == pytest.approx(np.mean([s.terms["continuation"] for s in drawn]))


@pytest.mark.parametrize(
    ("terms", "options", "message"),
    [
        (
            [LIKELY],
            {"template": "About {subject}:"},
            "template has {subject}, which is not a field of row 1. Its fields: topic",
        ),
        ([LIKELY], {"template": "{topic.__class__}"}, "is not a template"),
        ([LIKELY], {"template": "{topic!r}"}, "is not a template"),
        ([LIKELY], {"template": "{topic:>9}"}, "is not a template"),
        ([LIKELY], {"template": "{}"}, "is not a template"),
        ([LIKELY], {"template": "{topic"}, "is not a template"),
        ([LIKELY], {"template": ""}, "no token"),
        ([LIKELY], {"template": "same", "held_out": 1}, "in the training split and held out"),
        ([LIKELY], {"held_out": 2}, "held_out = 2"),
        ([LIKELY], {"held_out": -1}, "held_out = -1"),
        ([LIKELY], {"rows": [*ROWS, ROWS[0]]}, "row 3 is the same as row 1"),
        ([LIKELY], {"rows": [{"topic": ["rain"]}]}, 'row 1 has topic = ["rain"]: it must be'),
        ([LIKELY], {"rows": [{"topic": "a", "id": "x"}, {"topic": "b", "id": "x"}]}, "row 2 has the id 'x'"),
        ([LIKELY], {"rows": []}, "no rows"),
        ([LIKELY], {"rows": None}, "give one of"),
        ([LIKELY], {"file": "rows.jsonl"}, "give one of"),
        ([LIKELY], {"rows": None, "file": "not there.jsonl"}, "not there.jsonl"),
        ([LIKELY], {"log_epsilon": 1.0}, "log_epsilon = 1.0"),
        ([], {"terms": []}, "terms is empty"),
        ([{"kind": "likelihood"}], {}, "continuation"),
        ([{"kind": {}}], {}, "kind"),
        ([LIKELY | {"wieght": 2.0}], {}, "wieght"),
        ([LIKELY | {"weight": "2"}], {}, "weight"),
        ([LIKELY, LIKELY], {}, "two terms have the name 'continuation'"),
        ([LIKELY | {"name": "length"}], {}, "length_penalty"),
        ([LIKELY | {"name": "_hidden"}], {}, "name"),
        ([LIKELY | {"context": "{subject}"}], {}, "context of term 'continuation' has {subject}"),
        ([{"kind": "target"}], {}, "target"),
        ([{"kind": "target", "target": ""}], {}, "no token"),
        ([{"kind": "target", "target": "{subject}"}], {}, "target of term 'target' has {subject}"),
        ([{"kind": "length"}], {}, "per_token"),
        ([{"kind": "length", "per_token": 0.5}], {}, "needs least, most or both"),
        ([{"kind": "length", "per_token": 0.5, "least": 3, "most": 2}], {}, "no text has such a length"),
        ([LIKELY, {"kind": "keywords", "words": ["a"], "word": "b"}], {}, "word"),
        ([LIKELY, {"kind": "regex", "pattern": "("}], {}, "regular expression"),
        ([LIKELY, {"kind": "regex", "pattern": "a", "penalty": 0.0}], {}, "penalty = 0.0"),
        ([{"kind": "regex", "pattern": "a"}], {}, "is hard"),
        ([LIKELY | {"weight": 0.5}, {"kind": "regex", "pattern": "a"}], {}, "is hard"),
        ([LIKELY, {"kind": "regex", "pattern": "a", "weight": 2.0}], {}, "is hard"),
    ],
)
def test_a_mistake_is_refused_by_name(
    tokenizer: Tokenizer, terms: list[dict[str, object]], options: dict[str, object], message: str
) -> None:
    given = {"template": "About {topic}:", "rows": ROWS, "terms": terms} | options
    with pytest.raises(ValueError, match=re.escape(message)):
        CustomTask(tokenizer, **given)  # type: ignore[arg-type]


def test_jsonl_with_unused_fields_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Exports of ARC or MMLU have lists and nulls; only fields that a template names must be text."""
    path = tmp_path / "rows.jsonl"
    rows = [{"topic": "rain", "choices": ["x", "y"]}, {"topic": "tea", "note": None, "id": None, "meta": {"a": [1]}}]
    path.write_text("\ufeff" + "\r\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    task = make(tokenizer, rows=None, file=str(path))
    assert [(p.id, p.text, p.fields) for p in task.prompts()] == [
        ("row-1", "About rain:", {"topic": "rain"}),
        ("row-2", "About tea:", {"topic": "tea"}),
    ]


@pytest.mark.parametrize("value", [None, ["x"], {"a": 1}])
def test_a_field_that_a_term_names_must_be_text_in_every_row(
    tokenizer: Tokenizer, tmp_path: Path, value: object
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1] | {"after": value}) + "\n")
    message = f"target of term 'target' has {{after}}, and line 3 of {path} has after = {json.dumps(value)}: it must be"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(tokenizer, {"kind": "target", "target": " {after}"}, rows=None, file=str(path))


@pytest.mark.parametrize("line", ["[1]", "{", '{"topic": null}', '{"topic": {"a": 1}}', '"rain"'])
def test_a_line_that_is_no_row_is_named(tokenizer: Tokenizer, tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"line 2"):
        make(tokenizer, rows=None, file=str(path))
