"""Rows of the user's data, and templates that turn a row into text.

"Q: {question}" with {question = "Why?"} becomes "Q: Why?"; literal braces are written {{ and }}.
"""

import json
import string
from collections.abc import Mapping, Sequence

from rewards.text_file import read_json_lines

Value = str | int | float | bool
FORM = '{"field": value, ...}'
Row = Mapping[str, object]
"""Fields that no template names may hold anything."""


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
        """The text for one row. Raise ValueError for a field that the row does not have, or that can't be part of a
        text (null, a list, an object); `row_name` is for errors."""
        return "".join(literal + self._value(name, row, row_name) for literal, name in self._parts)

    def _value(self, name: str | None, row: Row, row_name: str) -> str:
        if name is None:
            return ""
        if name not in row:
            fields = ", ".join(row) or "none"
            raise ValueError(f"{self._where} has {{{name}}}, which is not a field of {row_name}. Its fields: {fields}")
        if not isinstance(row[name], Value):
            raise ValueError(
                f"{self._where} has {{{name}}}, and {row_name} has {name} = {json.dumps(row[name], default=str)[:80]}: "
                "it must be a string, a number, true or false. Change it, or remove the row"
            )
        return str(row[name])


def read_rows(rows: Sequence[Row] | None, file: str | None, prompts: Sequence[str] | None) -> list[tuple[str, Row]]:
    """(name for errors, row) from the one argument that is not None; a prompt is a row with a field `text`."""
    if sum(source is not None for source in (rows, file, prompts)) != 1:
        raise ValueError("give one of: rows = [{...}], file = 'PATH' of JSON lines, prompts = ['...']")
    named_rows: list[tuple[str, object]]
    if file is not None:
        named_rows = [(f"line {number} of {file}", row) for number, row in read_json_lines(file, "file", FORM)]
    elif prompts is not None:
        named_rows = [(f"prompt {k}", {"text": text}) for k, text in enumerate(prompts, start=1)]
    else:
        named_rows = [(f"row {k}", row) for k, row in enumerate(rows or (), start=1)]
    if not named_rows:
        raise ValueError("there are no rows: give at least one")
    checked_rows: list[tuple[str, Row]] = []
    seen: dict[str, str] = {}
    for row_name, row in named_rows:
        if not isinstance(row, dict):
            raise ValueError(f"{row_name} is {str(row)[:80]!r}: it must be {FORM}")
        content = json.dumps(row, sort_keys=True, default=str)
        if content in seen:
            raise ValueError(f"{row_name} is the same as {seen[content]}: remove one of them")
        seen[content] = row_name
        checked_rows.append((row_name, row))
    return checked_rows


def _parse(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    return list(string.Formatter().parse(text))


def _is_plain(name: str | None, extras: Sequence[str | None]) -> bool:
    """True; raise ValueError for a field with a format specification, a conversion or anything but a name."""
    if name is not None and (not name.isidentifier() or any(extras)):
        raise ValueError(f"{{{name}{'...' if any(extras) else ''}}} is not a plain field")
    return True
