"""Prompts and stories from files of the user's own, or from those that come with the package (rewards/data).

Every error is a ValueError that names the file and the line: a task's constructor raises it, and the user sees it as a
ConfigError about the task's options.
"""

import csv
import io
import json
from collections.abc import Hashable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rewards.task import TRAIN

TEST = "test"
SENTENCES = tuple(f"sentence{k}" for k in range(1, 6))
"""Columns of a CSV file of stories, those of ROCStories (Mostafazadeh et al., arXiv 1604.01696)."""

Row = TypeVar("Row")


class Line(NamedTuple):
    """A prompt of a text file."""

    number: int
    """In its file, from 1."""
    text: str
    """Without white space around it."""


class Story(NamedTuple):
    """Five sentences, without white space around them or line breaks inside."""

    number: int
    """Line of the file where it ends, from 1."""
    sentences: tuple[str, ...]


def read_lines(path: str) -> list[Line]:
    """One prompt a line, empty lines left out; `path` "" is rewards/data/prompts.txt.

    White space at the end is taken off: a byte-pair tokenizer puts a space in front of the word that follows, so that
    a prompt with a space at its end has a token of its own there, and no usual word can come next.
    """
    text, _ = _text_of(path, "prompts.txt", "prompts")
    lines = (Line(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [line for line in lines if line.text]


def read_stories(path: str) -> list[Story]:
    """From a .csv file with columns sentence1..sentence5 and any others, else JSON lines {"sentences": [s1, ..., s5]}.

    `path` "" is rewards/data/stories.jsonl.
    """
    text, name = _text_of(path, "stories.jsonl", "stories")
    rows = _csv_rows(text, name) if name.lower().endswith(".csv") else _json_rows(text, name)
    return [Story(number, _five(sentences, f"{name}, line {number}")) for number, sentences in rows]


def choose(rows: Sequence[Row], first: int, count: int, held_out: int) -> dict[str, list[Row]]:
    """`count` rows (0: all) from the `first` on, counted from 1; the last `held_out` of them are the split "test"."""
    if first < 1 or count < 0 or held_out < 0:
        raise ValueError(
            f"first = {first}, count = {count}, held_out = {held_out}: first is 1 or more, the others 0 or more"
        )
    chosen = list(rows[first - 1 : first - 1 + count] if count else rows[first - 1 :])
    if len(chosen) < max(count, held_out + 1):
        raise ValueError(
            f"first = {first}, count = {count}, held_out = {held_out} ask for more than the {len(rows)} rows of the "
            "file, or leave none to train on: lower them, or give a longer file"
        )
    cut = len(chosen) - held_out
    return {TRAIN: chosen[:cut], TEST: chosen[cut:]} if held_out else {TRAIN: chosen}


def refuse_repeats(keys: Sequence[tuple[int, Hashable]], what: str) -> None:
    """ValueError where two of (line number, key) have the same key: splits would share it, or ids mean the same."""
    seen: dict[Hashable, int] = {}
    for number, key in keys:
        if key in seen:
            raise ValueError(
                f"line {number} has the same {what} as line {seen[key]}: take one of them out, or choose other lines "
                "with first and count"
            )
        seen[key] = number


def _text_of(path: str, shipped: str, option: str) -> tuple[str, str]:
    """The whole text with "\\n" at line ends, and the file's name."""
    source = Path(path).expanduser() if path else resources.files("rewards").joinpath("data", shipped)
    try:
        text = source.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{option} = {path!r} can\'t be read: {error}. Give a text file in UTF-8, or "" for the shipped one'
        ) from error
    return text, path or shipped


def _csv_rows(text: str, name: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in SENTENCES if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{name} lacks the columns {', '.join(missing)}: its first line must name {', '.join(SENTENCES)}, as "
                "in ROCStories; others are ignored"
            )
        for row in reader:
            yield reader.line_num, [row[column] for column in SENTENCES]
    except csv.Error as error:
        raise ValueError(f"{name}, the story after line {reader.line_num}: {error}. Mend its quotes") from error


def _json_rows(text: str, name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f'{name}, line {number}: {line[:80]!r} must be {{"sentences": [s1, ..., s5]}}') from error
        yield number, row.get("sentences") if isinstance(row, dict) else row


def _five(sentences: Any, where: str) -> tuple[str, ...]:
    if not (isinstance(sentences, list) and len(sentences) == 5 and all(isinstance(s, str) for s in sentences)):
        raise ValueError(f"{where}: {str(sentences)[:80]!r} must be five sentences, each a text")
    whole = tuple(" ".join(s.split()) for s in sentences)
    if not all(whole):
        raise ValueError(f"{where}: sentence {whole.index('') + 1} is empty. Write all five, or take the story out")
    return whole
