"""Atomic file replacement, and strict JSON: numbers that are not finite become null."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from buffer.full_disk import when_there_is_room, write_bytes


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader, or a crash, sees the old content or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    when_there_is_room(lambda: write_bytes(partial, content), path.parent)
    partial.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically."""
    write_whole(path, json.dumps(plain(value), allow_nan=False, indent=2).encode() + b"\n")


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON, whole or not at all."""
    line = json.dumps(plain(row), allow_nan=False).encode() + b"\n"
    size = path.stat().st_size if path.exists() else 0

    def write() -> None:
        with path.open("ab") as file:
            file.truncate(size)  # what an attempt on a full disk left
            file.write(line)

    when_there_is_room(write, path.parent)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines atomically."""
    write_whole(path, b"".join(json.dumps(plain(row), allow_nan=False).encode() + b"\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines, null as NaN. A line cut short by a killed process is skipped; a missing file is empty."""
    return parse_lines(path.read_text()) if path.exists() else []


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The rows of `read_lines`."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(_with_nan(json.loads(line)))
        except json.JSONDecodeError:
            continue
    return rows


def plain(value: Any) -> Any:
    """A value that JSON can express: numpy as Python, NaN and infinities as None."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
