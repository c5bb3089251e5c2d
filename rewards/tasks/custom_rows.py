"""Rows of a user's own data, and templates that make texts of them.

"Q: {question}" with {question = "Why?"} is "Q: Why?"; braces are written {{ and }}.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = str | int | float | bool
Row = Mapping[str, Value]


class Template:
    """A text with {fields}: names only, nothing that reads attributes or formats."""

    def __init__(self, text: str, where: str) -> None:
        """`where`: its place in the recipe, for errors. ValueError for what is no such text."""
        self._where = where
        try:
            self._parts = [(literal, name) for literal, name, *how in _parse(text) if _plain(name, how)]
        except ValueError as error:
            raise ValueError(
                f"{where} = {text!r:.80} is no template: {error}. Write fields as {{name}}, and braces as {{{{ and }}}}"
            ) from error

    def fill(self, row: Row, which: str) -> str:
        """The text for one row; `which` names the row. ValueError for a field that the row does not have."""
        for _, name in self._parts:
            if name is not None and name not in row:
                has = ", ".join(row) or "nothing"
                raise ValueError(f"{self._where} names {{{name}}}, which {which} does not have. It has: {has}")
        return "".join(literal + ("" if name is None else str(row[name])) for literal, name in self._parts)


def read_rows(
    rows: Sequence[Row] | None, file: str | None, prompts: Sequence[str] | None
) -> list[tuple[str, dict[str, Value]]]:
    """(what it is called in errors, row) of whichever is given; a prompt is a row with the field `text`."""
    if sum(given is not None for given in (rows, file, prompts)) != 1:
        raise ValueError("give one of: rows = [{...}], file = 'PATH' of JSON lines, prompts = ['...']")
    if file is not None:
        found = _read_file(file)
    elif prompts is not None:
        found = [(f"prompt {k}", {"text": text}) for k, text in enumerate(prompts, start=1)]
    else:
        found = [(f"row {k}", dict(row)) for k, row in enumerate(rows or (), start=1)]
    if not found:
        raise ValueError("there is no row: give at least one")
    seen: dict[str, str] = {}
    for which, row in found:
        if not all(isinstance(value, Value) for value in row.values()):
            raise ValueError(f"{which} = {row!r:.80}: its values must be texts, numbers, true or false")
        content = json.dumps(row, sort_keys=True)
        if content in seen:
            raise ValueError(f"{which} is the same as {seen[content]}: take one of them out")
        seen[content] = which
    return found


def _read_file(path: str) -> list[tuple[str, dict[str, Value]]]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file = {path!r} can't be read: {error}. Give a text file in UTF-8") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append((f"line {number} of {path}", _read_line(line, f"{path}, line {number}")))
    return found


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


def _plain(name: str | None, how: Sequence[str | None]) -> bool:
    if name is not None and (not name.isidentifier() or any(how)):
        raise ValueError(f"{{{name}{'...' if any(how) else ''}}} is no field")
    return True
