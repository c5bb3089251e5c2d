"""Rewards of strings: terms and notes, a cache by content, and functions that do their worst."""

import contextlib
import faulthandler
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from buffer.errors import ConfigError
from buffer.types import IntArray, Prompt, content_id
from rewards import time_limit
from rewards.config import RewardAdvanced, RewardConfig, TaskConfig
from rewards.scorer import Failure, Score, Scorer, sample_terms
from rewards.task import BaseLogProbs, ScoreRequest, Task, Terms
from rewards.task_registry import make_task

PROMPT = Prompt("p", "x", np.array([1], np.int32))
BAD = 13
"""The token that makes a string hostile."""
LIMIT_S = 0.2


def z(*tokens: int) -> IntArray:
    return np.array(tokens, dtype=np.int32)


class Honest(Task):
    """log R = minus the sum of the tokens; strings that hold BAD go to `hostile`, with a part of it."""

    needs_base_model = False

    def __init__(
        self, hostile: Callable[[IntArray], Any] | None = None, labels: Callable[[], Any] | None = None
    ) -> None:
        self.hostile, self._labels, self.calls = hostile, labels, 0

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        return [PROMPT]

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        self.calls += 1
        if self.hostile is not None and BAD in token_ids:
            return self.hostile(token_ids)  # type: ignore[no-any-return]
        return {"sum": -np.cumsum([0.0, *token_ids]), "_note": np.ones(len(token_ids) + 1)}

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        return self._labels() if self._labels and BAD in token_ids else {"length": float(len(token_ids))}  # type: ignore[no-any-return]


def scorer(task: Task, **fields: Any) -> Scorer:
    return Scorer(task, None, RewardConfig(time_limit_s=LIMIT_S, **fields))


def scored(score: Score | Failure) -> Score:
    assert isinstance(score, Score), score
    return score


def test_a_string_that_comes_again_is_not_scored_again() -> None:
    task = Honest()
    rewards = scorer(task)
    first = rewards.score([PROMPT] * 3, [z(1, 2), z(3), z(1, 2)])
    again = rewards.score([PROMPT], [z(3)])
    assert task.calls == 2 and again[0] is first[1] and first[0] is first[2]
    assert (rewards.counters.strings, rewards.counters.cache_hits) == (4, 2)


def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    task = Honest()
    rewards = scorer(task, advanced=RewardAdvanced(cache_size=2))
    for tokens in (z(1), z(2), z(1), z(3), z(1)):
        rewards.score([PROMPT], [tokens])
    assert task.calls == 3
    rewards.score([PROMPT], [z(2)])
    assert task.calls == 4


def test_the_same_response_to_another_prompt_is_another_string() -> None:
    pairs = [("p", z(1)), ("q", z(1)), ("p", z(1, 1)), ("p", z())]
    assert len({content_id(prompt_id, PROMPT.token_ids, response) for prompt_id, response in pairs}) == 4


def test_notes_are_not_summed_and_weights_apply() -> None:
    score = scored(scorer(Honest(), length_penalty=0.5).score([PROMPT], [z(1, 2)])[0])
    assert score.term_names == ("sum", "_note", "length")
    assert score.log_reward.tolist() == [[0, -1, -3], [1, 1, 1], [0, -0.5, -1]]
    total, terms = sample_terms(score, {"sum": 2.0, "_note": 5.0})
    assert total == -7.0 and terms == {"sum": -3.0, "_note": 1.0, "length": -1.0}


def test_each_request_gets_its_own_scores() -> None:
    class Echo:
        """Returns the context's first token as every log-probability."""

        def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
            return [
                BaseLogProbs(*(np.full(n, q.context[0], np.float32) for n in (len(r), len(r) + 1, len(r) + 1)))
                for q, r in zip(requests, responses, strict=True)
            ]

    class Two(Honest):
        needs_base_model = True

        def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
            return [ScoreRequest(prompt.token_ids), ScoreRequest(prompt.token_ids * 10)]

        def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
            return {"first": base_scores[0].stop, "second": base_scores[1].stop}

    other = Prompt("q", "y", np.array([7], np.int32))
    scores = Scorer(Two(), Echo(), RewardConfig()).score([PROMPT, other], [z(1, 2), z()])
    assert [scored(s).log_reward[:, -1].tolist() for s in scores] == [[1, 10], [7, 70]]


def test_targets_are_asked_for_where_the_policy_may_stop_and_behind_whole_strings_alone_in_an_evaluation() -> None:
    requested: list[list[int]] = []

    class Watched:
        def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
            requested.extend(q.prefixes(len(r)).tolist() for q, r in zip(requests, responses, strict=True))
            return [
                BaseLogProbs(*(np.zeros(n, np.float32) for n in (len(r), len(r) + 1, len(r) + 1))) for r in responses
            ]

    class Aimed(Honest):
        needs_base_model = True

        def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
            return [ScoreRequest(prompt.token_ids, z(9), at_stops=True), ScoreRequest(prompt.token_ids, z(9))]

    rewards = Scorer(Aimed(), Watched(), RewardConfig(), stops=lambda string: np.arange(2, len(string) + 1))
    (whole,) = rewards.score([PROMPT], [z(1, 2, 3)], whole_strings=True)
    assert requested == [[3], [0, 1, 2, 3]]
    assert scored(whole).log_reward.shape[1] == 1, "no value stands for a prefix that was not scored"
    rewards.score([PROMPT], [z(1, 2, 3)], whole_strings=True)
    assert len(requested) == 2, "cached for others that read the whole string alone"
    (every,) = rewards.score([PROMPT], [z(1, 2, 3)])
    assert requested[2:] == [[2, 3], [0, 1, 2, 3]], "what was left out is not taken from the cache"
    assert scored(every).log_reward.shape[1] == 4
    rewards.score([PROMPT], [z(1, 2, 3)], whole_strings=True)
    assert len(requested) == 4, "what is whole is"


def spin() -> None:
    while True:
        pass


def stubborn() -> None:
    """Catches what it can and goes on; left at the third signal."""
    for _ in range(2):
        try:
            spin()
        except BaseException:
            continue
    spin()


def forever(n: int = 0) -> int:
    return forever(n + 1) + 1


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def endless() -> Iterator[float]:
    while True:
        yield 0.0


def throw(error: BaseException) -> Any:
    raise error


def length(token_ids: IntArray) -> int:
    return len(token_ids) + 1


HOSTILE: dict[str, Callable[[IntArray], Any]] = {
    **{
        f"raises {type(error).__name__}": lambda t, e=error: throw(e)  # type: ignore[misc]
        for error in (
            ValueError("bad"), TypeError("bad"), KeyError("k"), IndexError(), ZeroDivisionError(), AttributeError("a"), OSError("disk"),
            MemoryError(), RecursionError(), StopIteration(), AssertionError(), UnicodeError("u"), NotImplementedError(), GeneratorExit(),
            SystemExit(0), SystemExit("bye"), Silent(), RuntimeError("x" * 100_000), RuntimeError("two\nlines\x1b[31m"), BaseException("base"),
            TimeoutError(), ImportError("no module"), EOFError(), BrokenPipeError(), ExceptionGroup("many", [ValueError("a"), TypeError("b")]),
        )
    },
    "nan": lambda t: {"r": np.full(length(t), np.nan)},
    "inf": lambda t: {"r": np.full(length(t), np.inf)},
    "minus inf": lambda t: {"r": np.full(length(t), -np.inf)},
    "beyond fp32": lambda t: {"r": np.full(length(t), 1e300)},
    "one nan": lambda t: {"r": np.where(np.arange(length(t)) == 1, np.nan, 0.0)},
    "too short": lambda t: {"r": np.zeros(len(t))},
    "too long": lambda t: {"r": np.zeros(length(t) + 1)},
    "a scalar": lambda t: {"r": 1.0},
    "a matrix": lambda t: {"r": np.zeros((length(t), 1))},
    "text": lambda t: {"r": np.array(["a"] * length(t))},
    "objects": lambda t: {"r": np.array([object()] * length(t))},
    "complex": lambda t: {"r": np.full(length(t), 1j)},
    "a list of lists": lambda t: {"r": [[0.0]] * length(t)},
    "ragged": lambda t: {"r": [[0.0], [0.0, 1.0]]},
    "None": lambda t: None,
    "no terms": lambda t: {},
    "a list": lambda t: [0.0] * length(t),
    "a number": lambda t: 3.0,
    "a term of None": lambda t: {"r": None},
    "a generator": lambda t: {"r": endless()},
    "a number as name": lambda t: {1: np.zeros(length(t))},
    "an empty name": lambda t: {"": np.zeros(length(t))},
    "a name in red": lambda t: {"\x1b[31mr": np.zeros(length(t))},
    "half a character": lambda t: {"\ud800": np.zeros(length(t))},
    "a long name": lambda t: {"r" * 65: np.zeros(length(t))},
    "65 terms": lambda t: {f"r{k}": np.zeros(length(t)) for k in range(65)},
    "changes the string": lambda t: t.__setitem__(0, 0),
    "an endless loop": lambda t: spin(),
    "a loop that catches everything, twice": lambda t: stubborn(),
    "sleeps": lambda t: time.sleep(3600),
    "waits for a lock": lambda t: threading.Lock().acquire() and threading.Event().wait(3600),
    "an endless recursion": lambda t: forever(),
    "a regular expression that backtracks": lambda t: re.match(r"(a+)+$", "a" * 60 + "b"),
    "an endless list": lambda t: list(iter(lambda: 0.0, 1.0)) if False else [x for x in iter(lambda: time.sleep(0.01), 1)],
    "more memory than there is": lambda t: {"r": np.zeros((10**9, 10**6))},
    "a warning as an error": lambda t: (warnings.simplefilter("error"), np.log(np.zeros(length(t)))),
    "reads standard input": lambda t: throw(EOFError()) if sys.stdin is None or sys.stdin.closed else {"r": sys.stdin.read(0)},
    "divides by zero": lambda t: {"r": [1 / 0]},
}  # fmt: skip

HOSTILE_LABELS: dict[str, Callable[[], Any]] = {
    "labels raise": lambda: throw(ValueError("no")),
    "labels are None": lambda: None,
    "a label is nan": lambda: {"a": float("nan")},
    "a label is text": lambda: {"a": "b"},
    "a label has no name": lambda: {"": 1.0},
    "a thousand labels": lambda: {f"l{k}": 1.0 for k in range(1000)},
    "labels never end": spin,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*HOSTILE, *HOSTILE_LABELS])
def test_a_hostile_function_costs_its_own_string_and_nothing_else(name: str) -> None:
    task = Honest(HOSTILE.get(name), HOSTILE_LABELS.get(name))
    rewards = scorer(task)
    began = time.monotonic()
    with warnings.catch_warnings():
        before, bad, after = rewards.score([PROMPT] * 3, [z(1), z(2, BAD), z(3, 4)])
    assert isinstance(bad, Failure) and 0 < len(bad.reason) < 500 and "\n" not in bad.reason
    assert scored(before).log_reward[0].tolist() == [0, -1] and scored(after).log_reward[0].tolist() == [0, -3, -7]
    assert rewards.counters.failures == 1 and rewards.counters.last_failure == bad.reason
    assert time.monotonic() - began < 20 * LIMIT_S, "bounded"


def test_there_are_at_least_fifty_of_them() -> None:
    assert len(HOSTILE) + len(HOSTILE_LABELS) >= 50


def test_a_timeout_is_named_in_the_reason() -> None:
    failure = scorer(Honest(HOSTILE["an endless loop"])).score([PROMPT], [z(BAD)])[0]
    assert isinstance(failure, Failure) and f"longer than rewards.time_limit_s = {LIMIT_S:g} s" in failure.reason


def test_a_failure_is_tried_again_and_not_kept() -> None:
    task = Honest(HOSTILE["nan"])
    rewards = scorer(task)
    assert isinstance(rewards.score([PROMPT], [z(BAD)])[0], Failure)
    task.hostile = None
    assert isinstance(rewards.score([PROMPT], [z(BAD)])[0], Score)


def test_a_batch_function_that_returns_too_few_results_fails_each_string_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Honest()
    monkeypatch.setattr(task, "batch_terms", lambda prompts, responses: [{}] * (len(prompts) - 1))
    for failure in scorer(task).score([PROMPT] * 2, [z(1), z(2)]):
        assert isinstance(failure, Failure) and "batch_terms raised ValueError: it returned 0 results" in failure.reason


def test_a_poison_string_is_never_tried() -> None:
    task = Honest()
    found = scorer(task).score([PROMPT] * 2, [z(BAD), z(1)], frozenset({content_id("p", PROMPT.token_ids, z(BAD))}))
    assert isinstance(found[0], Failure) and isinstance(found[1], Score) and task.calls == 1


def test_nothing_is_left_armed_after_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[bool] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *args, **kwargs: armed.append(True))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: armed.append(False))
    for call in (lambda: 1, lambda: throw(ValueError()), spin):
        with contextlib.suppress(time_limit.CallFailed):
            time_limit.call_with_limit(call, LIMIT_S, "it")
    assert armed == [True, False] * 3
    assert time_limit.signal.getitimer(time_limit.signal.ITIMER_REAL) == (0.0, 0.0)


FILES = {
    "syntax": ("def (", "SyntaxError"),
    "import": ("import no_such_module_at_all", "no_such_module_at_all"),
    "exits": ("import sys; sys.exit(0)", "SystemExit"),
    "raises": ("raise RuntimeError('at import')", "at import"),
    "empty": ("", "has no attribute 'T'"),
    "no_class": ("T = 3", "is not a task"),
    "no_task": ("class T: pass", "is not a task"),
    "instance": ("from rewards.task import Task\nT = Task()", "is not a task"),
    "constructor": ("from rewards.task import Task\nclass T(Task):\n  def __init__(self, tokenizer): raise OSError('gone')", "gone"),
    "constructor_exits": ("from rewards.task import Task\nclass T(Task):\n  def __init__(self, tokenizer): raise SystemExit", "SystemExit"),
    "options": ("from rewards.task import Task\nclass T(Task):\n  def __init__(self, tokenizer, must): pass", "must"),
    "binary": ("\x00\x01", "null bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_named_with_what_is_wrong(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, words = FILES[name]
    module = f"hostile_{name}_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(words)):
        make_task(TaskConfig(name=f"{module}:T"), Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), tmp_path)
