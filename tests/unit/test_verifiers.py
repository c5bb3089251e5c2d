"""Rewards of whole answers: what each kind grades, and that a failing function or endpoint is never a reward."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from buffer.errors import RewardError
from rewards.verifiers import read_rewards
from rewards.verifiers.child import Child
from rewards.verifiers.code import code_of
from rewards.verifiers.text import last_number
from rewards.verifiers.verifier import Answers, Grade


def answers(*texts: str, **columns: list[object]) -> Answers:
    return Answers([f"question {i}" for i in range(len(texts))], texts, texts, columns)


def grades(table: object, given: Answers) -> list[Grade]:
    (reward,) = read_rewards([table])
    return list(reward.verify(given))


CASES = {
    "exact": ({"kind": "exact"}, {"answer": ["Paris"] * 3}, [" Paris\n", "paris", "It is Paris"], [1, 0, 0]),
    "ignore_case": ({"kind": "exact", "ignore_case": True}, {"answer": ["Paris"]}, ["PARIS"], [1]),
    "numeric": (
        {"kind": "numeric"}, {"answer": ["#### 1,234", "-0.5", "3", "3"]},
        ["so 1 + 1 gives 1234.", "it is -.5", "three", "3 or 4"], [1, 1, 0, 0],
    ),
    "regex": ({"kind": "regex", "pattern": r"\d+", "name": "digits"}, {}, ["12", "a12"], [1, 0]),
    "keywords": ({"kind": "keywords", "words": ["sun"]}, {}, ["the sun", "rain"], [1, 0]),
    "json": ({"kind": "json_schema", "schema": {"type": "object"}}, {}, ["{}", "[]", "{"], [1, 0, 0]),
    "length": ({"kind": "length", "least": 2, "most": 3}, {}, ["a", "a b", "a b c d"], [0, 1, 0]),
    "math": (
        {"kind": "math"}, {"answer": [r"\frac{1}{2}", "x^2 + 2x + 1", "7"]},
        [r"The answer is $\frac{2}{4}$", "$(x+1)^2$", "it is $8$"], [1, 1, 0],
    ),
    "code": (
        {"kind": "code"}, {"tests": ["assert f(2) == 4", ["assert f(2) == 4"], "assert f(2) == 4", "assert True", "assert True", "assert True", "assert False"]},
        ["Here:\n```python\ndef f(x): return 2 * x\n```", "def f(x): return x", "def f(x) return", "import os; os._exit(0)", "while True: pass", "x = 1\0", "#" + 200_000 * "x"],
        [1, 0, 0, 0, 0, 0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_kind_grades_right_and_wrong_answers(name: str) -> None:
    table, columns, texts, expected = CASES[name]
    limited = {**table, "limit_s": 6.0} if name == "code" else table
    assert grades(limited, answers(*texts, **columns)) == expected


def test_numbers_in_texts() -> None:
    for text, number in {
        "1,234.5": 1234.5,
        "2e3": 2000.0,
        "-7": -7.0,
        "x1": 1.0,
        "no": None,
        ".": None,
        "1.": 1.0,
    }.items():
        assert last_number(text) == number, text
    assert code_of("```py\na\n``` then ```\nb\n```") == "b\n"


FUNCTIONS = """
import asyncio, os
calls = 0

def length(completions, **kwargs):
    print("what a function prints is not an answer")
    return [float(len(c)) for c in completions]

async def later(prompts, completions, answer, **kwargs):
    await asyncio.sleep(0.01)
    return [None if a is None else float(c == a) for c, a in zip(completions, answer)]

def picky(completions):
    return [1.0 / (len(c) - 1) for c in completions]

def bad_values(completions, **kwargs):
    return [{"nan": float("nan"), "text": "good", "fine": 2}[c] for c in completions]

def too_few(completions, **kwargs):
    return [1.0] * (len(completions) - 1)

def hangs(completions, **kwargs):
    while "hang" in completions:
        pass
    return [1.0] * len(completions)

def leaves(completions, **kwargs):
    if "leave" in completions:
        os._exit(3)
    return [1.0] * len(completions)

def counts(completions, **kwargs):
    global calls
    calls += 1
    return [float(calls)] * len(completions)

def columns(prompts, completions, **columns):
    return [float(len(columns)) for _ in completions]

def day(completions, day, **kwargs):
    return [float(d == "2026-11-26") for d in day]

def broken(completions, **kwargs):
    raise ValueError(len(completions))
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"  # the name of one of our own packages
    path.write_text(FUNCTIONS)
    return path


def test_a_function_of_trl_works_unchanged(functions: Path) -> None:
    assert grades(f"{functions}:length", answers("a", "bcd")) == [1.0, 3.0]
    assert grades(f"{functions}:later", answers("a", "b", "c", answer=["a", "a", None])) == [1.0, 0.0, None]
    assert grades(f"{functions}:columns", answers("a", answer=["a"], level=[3])) == [2.0]


def test_a_column_that_json_does_not_have_reaches_a_function_as_text(functions: Path) -> None:
    assert grades(f"{functions}:day", answers("a", day=[date(2026, 11, 26)])) == [1.0]


def test_a_function_that_always_fails_is_not_tried_on_every_answer(
    functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    call = Child._call
    monkeypatch.setattr(Child, "_call", lambda self, given: (calls.append(len(given.texts)), call(self, given))[1])
    found = grades(f"{functions}:broken", answers(*"abcdefgh"))
    assert len(found) == 8 and all(isinstance(grade, RewardError) for grade in found) and calls == [8, 1, 1, 1]


def test_a_function_sees_many_answers_in_one_call(functions: Path) -> None:
    (reward,) = read_rewards([f"{functions}:counts"])
    assert [list(reward.verify(answers("a", "b", "c"))) for _ in range(2)] == [[1.0] * 3, [2.0] * 3]


FAILURES = {
    "picky": (["ab", "a"], [1.0, "ZeroDivisionError.*rewards.py, line 14: return \\[1.0 / "]),
    "bad_values": (["nan", "text", "fine"], ["returned nan.*finite", "returned 'good'.*number", 2.0]),
    "too_few": (["a", "b"], ["a list of 1 numbers", "a list of 1 numbers"]),
    "hangs": (["a", "hang"], [1.0, "longer than limit_s = 2 s"]),
    "leaves": (["leave", "b"], ["ended its process with exit code 3", 1.0]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_one_bad_answer_costs_no_other_and_is_never_a_reward(name: str, functions: Path) -> None:
    texts, expected = FAILURES[name]
    found = grades({"kind": "function", "function": f"{functions}:{name}", "limit_s": 2.0}, answers(*texts))
    for grade, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, float):
            assert grade == wanted
        else:
            assert isinstance(grade, RewardError) and re.search(wanted, str(grade)), grade


def test_an_import_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import json\nimport a_module_that_is_not_there\n")
    (grade,) = grades(f"{tmp_path}/broken.py:f", answers("a"))
    assert re.search("can't be imported: raised ModuleNotFoundError.*broken.py, line 2", str(grade))


REFUSED = {
    "no file": ("nowhere.py:f", "no file nowhere.py"),
    "no name": ("rewards.py:", "PATH.py:name"),
    "unknown kind": ("accuracy", "kind = one of"),
    "number": (3, "must be a table"),
    "a note's name": ("json:_hidden", "terms with _ in front do not count"),
    "taken name": ({"kind": "exact", "name": "base"}, "another term"),
    "bad pattern": ({"kind": "regex", "pattern": "("}, "regular expression"),
    "backwards": ({"kind": "length", "least": 3, "most": 1}, "no text has such a length"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_a_reward_is_refused_with_the_reason(name: str) -> None:
    entry, words = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(words)):
        read_rewards([entry])
    with pytest.raises(ValueError, match="rewards is empty"):
        read_rewards([])
    with pytest.raises(ValueError, match="two rewards have the name 'exact'"):
        read_rewards(["exact", "exact"])


@contextmanager
def serving(answer: Callable[[Any], tuple[int, str]], port: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """An HTTP server on this machine: request -> (code, body)."""
    requests: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append((body, self.headers.get("authorization")))
            code, text = answer(body)
            self.send_response(code)
            self.send_header("content-type", "application/json" if text[:1] in "[{" else "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", requests
    finally:
        server.shutdown()
        server.server_close()


def lengths(body: Any) -> tuple[int, str]:
    return 200, json.dumps({"rewards": [len(c) for c in body["completions"]]})


def test_an_endpoint_gets_batches_with_columns_and_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    with serving(lengths) as (url, requests):
        table = {"kind": "http", "url": url, "batch_size": 2, "token_env": "MY_TOKEN", "max_requests": 1}
        assert grades(table, answers("a", "bb", "ccc", level=[1, 2, 3])) == [1, 2, 3]
    assert [len(body["completions"]) for body, _ in requests] == [2, 1]
    assert requests[0][0]["columns"] == {"level": [1, 2]} and requests[0][1] == "Bearer secret"
    monkeypatch.delenv("MY_TOKEN")
    assert "MY_TOKEN" in str(grades(table, answers("a"))[0])


WRONG = {
    "html": ((200, "<html>"), "text/html instead of JSON"),
    "refused": ((400, "bad row"), "answered 400: 'bad row'"),
    "half a batch": ((200, "[1.0]"), "with 2 values"),
    "no rewards": ((200, '{"scores": []}'), "must answer"),
    "text": ((200, '["good", 1]'), "'good'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_of_an_endpoint_is_an_error_at_once(name: str) -> None:
    answer, words = WRONG[name]
    with serving(lambda body: answer) as (url, requests):
        found = grades({"kind": "http", "url": url}, answers("a", "bb"))
    assert isinstance(found[0], RewardError) and words in str(found[0]) and len(requests) == 1
    assert name != "text" or found[1] == 1.0


def test_an_endpoint_that_is_down_or_overloaded_costs_time_only() -> None:
    codes = iter([503, 429])
    with serving(lambda body: (next(codes, 200), lengths(body)[1])) as (url, requests):
        port = int(url.split(":")[2].partition("/")[0])
        assert grades({"kind": "http", "url": url}, answers("a")) == [1] and len(requests) == 3
    found: list[Grade] = []
    asking = threading.Thread(target=lambda: found.extend(grades({"kind": "http", "url": url}, answers("abcd"))))
    asking.start()  # nobody listens now
    time.sleep(1.0)
    assert not found
    with serving(lengths, port):
        asking.join(30)
    assert found == [4]


def test_the_patience_has_an_end_and_no_reward_comes_of_it() -> None:
    table = {"kind": "http", "url": "http://127.0.0.1:9/", "patience_s": 0.2}
    (grade,) = grades(table, answers("a"))
    assert isinstance(grade, RewardError) and "can't be reached" in str(grade)


def test_a_judge_is_sent_question_and_answer_and_its_number_is_the_reward() -> None:
    replies = iter(["<think>9 or 10</think> 8", "I like it", "11"])

    def chat(body: Any) -> tuple[int, str]:
        return 200, json.dumps({"choices": [{"message": {"content": next(replies)}}]})

    with serving(chat) as (url, requests):
        table = {
            "kind": "judge",
            "url": url,
            "model": "m",
            "question": "{prompt}|{completion}|{level}",
            "max_requests": 1,
        }
        found = grades(table, answers("a", "b", "c", level=[1, 2, 3]))
    assert found[0] == 0.8 and "no number" in str(found[1]) and "not in 0..10" in str(found[2])
    assert requests[0][0]["messages"] == [{"role": "user", "content": "question 0|a|1"}]
