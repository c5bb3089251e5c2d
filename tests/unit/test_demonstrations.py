"""Demonstrations: lines that are read, and lines that are rejected with their number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.errors import ConfigError
from buffer.types import PolicySpec, Prompt
from deploy.driver.demonstrations import read_demonstrations

WORDS = ["<pad>", "a", "b", "c", "."]
SPEC = PolicySpec(
    "m", "float32", 1, 1, ("q_proj",), stop_token_id=4, max_actions=3, min_actions=1, allowed_token_ids=(1, 2)
)
PROMPTS = [Prompt(name, "x", np.array([1], np.int32)) for name in ("p", "q")]


@pytest.fixture
def tokenizer() -> Tokenizer:
    word_level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    return word_level


def test_each_line_becomes_an_unscored_string_of_its_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"prompt": "q", "response": "a b"}\n\n{"prompt": "p", "response": "b"}\n')
    demonstrations = read_demonstrations(path, PROMPTS, tokenizer, SPEC)
    assert [(t.prompt_id, t.token_ids.tolist(), t.is_scored) for t in demonstrations] == [
        ("q", [1, 2], False),
        ("p", [2], False),
    ]
    path.write_text('{"response": "a"}')
    assert read_demonstrations(path, PROMPTS[:1], tokenizer, SPEC)[0].prompt_id == "p"


def test_fields_of_a_person_s_own_are_ignored(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"prompt": "p", "response": "a", "meta": {"by": [1, null]}, "score": null}\n')
    assert [t.token_ids.tolist() for t in read_demonstrations(path, PROMPTS, tokenizer, SPEC)] == [[1]]


def test_demonstrations_with_bom_and_crlf_are_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "q", "response": "a b"}\r\n\r\n{"prompt": "p", "response": "b"}\r\n')
    assert [t.token_ids.tolist() for t in read_demonstrations(path, PROMPTS, tokenizer, SPEC)] == [[1, 2], [2]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"response": "a"}', ["line 2", "prompt None is not one of the task's 2 prompts"]),
        ('{"prompt": "z", "response": "a"}', ["prompt 'z'", "such as 'p'"]),
        ('{"prompt": "p", "text": "a"}', ["line 2", "must be an object"]),
        ('{"prompt": "p"', ["line 2", "must be an object"]),
        ('{"prompt": "p", "response": ""}', ["0 tokens", "policy.min_actions = 1"]),
        ('{"prompt": "p", "response": "a a a a"}', ["4 tokens", "policy.max_actions = 3"]),
        ('{"prompt": "p", "response": "a ."}', ["stop token"]),
        ('{"prompt": "p", "response": "a c"}', ["'c' is not in policy.allowed_tokens"]),
    ],
)
def test_a_response_the_policy_can_not_write_is_rejected_with_its_line(
    tmp_path: Path, tokenizer: Tokenizer, line: str, words: list[str]
) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"prompt": "p", "response": "a"}\n' + line + "\n")
    with pytest.raises(ConfigError) as raised:
        read_demonstrations(path, PROMPTS, tokenizer, SPEC)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_response_with_a_forbidden_token_is_rejected(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "demonstrations.jsonl"
    path.write_text('{"prompt": "p", "response": "a b"}\n')
    spec = replace(SPEC, allowed_token_ids=None, forbidden_token_ids=(2,))
    with pytest.raises(ConfigError, match=r"'b' is in policy\.forbidden_tokens, so the policy can't write it"):
        read_demonstrations(path, PROMPTS, tokenizer, spec)


def test_a_missing_or_empty_file_is_rejected(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        read_demonstrations(tmp_path / "none", PROMPTS, tokenizer, SPEC)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="has no lines"):
        read_demonstrations(tmp_path / "empty", PROMPTS, tokenizer, SPEC)
