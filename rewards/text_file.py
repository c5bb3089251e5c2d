"""The one reader of files that a person brings: recipes, prompts, rows, reviews, stories, demonstrations, schemas.

Text is UTF-8, with or without a byte order mark, with LF or CRLF. Anything else is a ValueError of one sentence that
names the setting, the file and the fix.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: str | Path, setting: str) -> str:
    """The file's text without a byte order mark, with "\\n" at line ends. `setting` names the path in errors.

    "~" is the user's home. Raise ValueError for a path that can't be read, and for another encoding.
    """
    where = f"{setting} = {str(path)!r}"
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ of an unknown user; ValueError: zero byte
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{where} can't be read ({reason}): give the path of a readable text file") from error
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"{where} can't be read: it is encoded as {encoding}. Save it as UTF-8")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_text(where, content, error.start, "is not UTF-8") from error
    if (start := content.find(b"\0")) >= 0:
        raise _not_text(where, content, start, "is not part of a text (UTF-16 without a mark has such bytes)")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json_object(path: str | Path, setting: str) -> dict[str, object]:
    """The one JSON object of a file. Raise ValueError as `read_text` does, and for any other content."""
    text = read_text(path, setting)
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): the file is damaged. Copy it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object. Copy it again")
    return value


def read_json_lines(path: str | Path, setting: str, form: str) -> Iterator[tuple[int, object]]:
    """(number of the line in the file, from 1; its JSON value) of each line that is not blank.

    `form` is what a line must be, for errors. Raise ValueError as `read_text` does, and for a line that is not JSON.
    """
    # not splitlines: a JSON string may contain other line separators
    for number, line in enumerate(read_text(path, setting).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} must be {form}, but is not JSON ({reason})"
            ) from error
        yield number, value


def _not_text(where: str, content: bytes, start: int, problem: str) -> ValueError:
    line = content.count(b"\n", 0, start) + 1
    return ValueError(
        f"{where} can't be read: byte {start} (0x{content[start]:02x}, line {line}) {problem}. Save it as UTF-8"
    )
