"""Reads prompts and stories from the user's files or from those in the package (rewards/data).

Every error is a ValueError that names the file and the line. It is raised in a task's constructor and shown to the user
as a ConfigError about the task's options.
"""

import csv
import io
from collections.abc import Hashable, Iterator, Sequence
from importlib import resources
from typing import Any, NamedTuple, TypeVar

from rewards.task import TRAIN
from rewards.text_file import read_json_lines, read_text

TEST = "test"
SENTENCES = tuple(f"sentence{k}" for k in range(1, 6))
"""Columns of a CSV file of stories, those of ROCStories (Mostafazadeh et al., arXiv 1604.01696)."""

Row = TypeVar("Row")


class Line(NamedTuple):
    """One prompt of a text file."""

    number: int
    """Line number in the file, from 1."""
    text: str
    """The line without surrounding white space."""


class Story(NamedTuple):
    """Five sentences, without surrounding white space or line breaks."""

    number: int
    """Line number in the file where the story ends, from 1."""
    sentences: tuple[str, ...]


def read_lines(path: str) -> list[Line]:
    """Read one prompt per line, skipping empty lines; `path` "" is rewards/data/prompts.txt.

    Trailing white space is removed. A byte-pair tokenizer attaches a space to the word that follows it, so that a
    prompt with a space at its end would have a separate token there, and no ordinary word could come next.
    """
    text = read_text(_or_shipped(path, "prompts.txt"), "prompts")
    lines = (Line(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [line for line in lines if line.text]


def read_stories(path: str) -> list[Story]:
    """Read a .csv file with columns sentence1..sentence5 and any others, or JSON lines {"sentences": [s1, ..., s5]}.

    `path` "" is rewards/data/stories.jsonl.
    """
    path = _or_shipped(path, "stories.jsonl")
    rows = _csv_rows(path) if path.lower().endswith(".csv") else _json_rows(path)
    return [Story(number, _checked_sentences(sentences, f"{path}, line {number}")) for number, sentences in rows]


def split_rows(rows: Sequence[Row], first: int, count: int, held_out: int) -> dict[str, list[Row]]:
    """`count` rows (0: all) from number `first` (from 1) on; the last `held_out` of them are the split "test"."""
    if first < 1 or count < 0 or held_out < 0:
        raise ValueError(
            f"first = {first}, count = {count}, held_out = {held_out}: first must be at least 1, the others at least 0"
        )
    selected = list(rows[first - 1 : first - 1 + count] if count else rows[first - 1 :])
    if len(selected) < max(count, held_out + 1):
        raise ValueError(
            f"first = {first}, count = {count}, held_out = {held_out} need more than the {len(rows)} rows of the "
            "file, or leave none to train on. Lower them, or give a longer file"
        )
    cut = len(selected) - held_out
    return {TRAIN: selected[:cut], TEST: selected[cut:]} if held_out else {TRAIN: selected}


def check_unique(keys: Sequence[tuple[int, Hashable]], what: str) -> None:
    """Raise ValueError if two of the pairs (line number, key) have equal keys, which two splits might share."""
    seen: dict[Hashable, int] = {}
    for number, key in keys:
        if key in seen:
            raise ValueError(
                f"line {number} has the same {what} as line {seen[key]}: remove one of them, or select other lines "
                "with first and count"
            )
        seen[key] = number


def _or_shipped(path: str, shipped: str) -> str:
    return path or str(resources.files("rewards").joinpath("data", shipped))


def _csv_rows(path: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(read_text(path, "stories"), newline=""), strict=True)
    try:
        missing = [column for column in SENTENCES if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{path} lacks the columns {', '.join(missing)}: its first line must name {', '.join(SENTENCES)}, as "
                "in ROCStories; other columns are ignored"
            )
        for row in reader:
            yield reader.line_num, [row[column] for column in SENTENCES]
    except csv.Error as error:
        raise ValueError(f"{path}, the story after line {reader.line_num}: {error}. Fix its quotes") from error


def _json_rows(path: str) -> Iterator[tuple[int, Any]]:
    for number, row in read_json_lines(path, "stories", '{"sentences": [s1, ..., s5]}'):
        yield number, row.get("sentences") if isinstance(row, dict) else row


def _checked_sentences(sentences: Any, where: str) -> tuple[str, ...]:
    if not (isinstance(sentences, list) and len(sentences) == 5 and all(isinstance(s, str) for s in sentences)):
        raise ValueError(f"{where}: {str(sentences)[:80]!r} must be five sentences, each a string")
    stripped = tuple(" ".join(s.split()) for s in sentences)
    if not all(stripped):
        raise ValueError(f"{where}: sentence {stripped.index('') + 1} is empty. Write all five, or remove the story")
    return stripped
