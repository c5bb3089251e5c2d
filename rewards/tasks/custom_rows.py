"""Rows of the user's data, and templates that turn a row into text.

"Q: {question}" with {question = "Why?"} becomes "Q: Why?"; literal braces are written {{ and }}.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = str | int | float | bool
Row = Mapping[str, Value]


class Template:
    """Text with {fields}: plain names only, without attributes, conversions or format specifications."""

    def __init__(self, text: str, where: str) -> None:
        """`where`: the template's place in the recipe, for errors. Raise ValueError for an invalid template."""
        self._where = where
        try:
            self._parts = [(literal, name) for literal, name, *extras in _parse(text) if _is_plain(name, extras)]
        except ValueError as error:
            raise ValueError(
                f"{where} = {text!r:.80} is not a template: {error}. Write fields as {{name}} and "
                "literal braces as {{ and }}"
            ) from error

    def fill(self, row: Row, row_name: str) -> str:
        """The text for one row. Raise ValueError for a field that the row does not have; `row_name` is for errors."""
        for _, name in self._parts:
            if name is not None and name not in row:
                fields = ", ".join(row) or "none"
                raise ValueError(
                    f"{self._where} has {{{name}}}, which is not a field of {row_name}. Its fields: {fields}"
                )
        return "".join(literal + ("" if name is None else str(row[name])) for literal, name in self._parts)


def read_rows(
    rows: Sequence[Row] | None, file: str | None, prompts: Sequence[str] | None
) -> list[tuple[str, dict[str, Value]]]:
    """(name for errors, row) from the one argument that is not None; a prompt is a row with a field `text`."""
    if sum(source is not None for source in (rows, file, prompts)) != 1:
        raise ValueError("give one of: rows = [{...}], file = 'PATH' of JSON lines, prompts = ['...']")
    if file is not None:
        named_rows = _read_file(file)
    elif prompts is not None:
        named_rows = [(f"prompt {k}", {"text": text}) for k, text in enumerate(prompts, start=1)]
    else:
        named_rows = [(f"row {k}", dict(row)) for k, row in enumerate(rows or (), start=1)]
    if not named_rows:
        raise ValueError("there are no rows: give at least one")
    seen: dict[str, str] = {}
    for row_name, row in named_rows:
        if not all(isinstance(value, Value) for value in row.values()):
            raise ValueError(f"{row_name} = {row!r:.80}: its values must be strings, numbers, true or false")
        content = json.dumps(row, sort_keys=True)
        if content in seen:
            raise ValueError(f"{row_name} is the same as {seen[content]}: remove one of them")
        seen[content] = row_name
    return named_rows


def _read_file(path: str) -> list[tuple[str, dict[str, Value]]]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file = {path!r} can't be read: {error}. Give a UTF-8 text file") from error
    return [
        (f"line {number} of {path}", _read_line(line, f"{path}, line {number}"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _read_line(line: str, where: str) -> dict[str, Value]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(f'{where}: {line[:80]!r} must be {{"field": value, ...}}')
    return row


def _parse(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    return list(string.Formatter().parse(text))


def _is_plain(name: str | None, extras: Sequence[str | None]) -> bool:
    """True; raise ValueError for a field with a format specification, a conversion or anything but a name."""
    if name is not None and (not name.isidentifier() or any(extras)):
        raise ValueError(f"{{{name}{'...' if any(extras) else ''}}} is not a plain field")
    return True
