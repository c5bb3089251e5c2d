"""Rows of a user's data file: JSON lines, CSV, Parquet, or a folder that `datasets` saved.

Every error is a ValueError of one sentence with the file and, where there is one, the row.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewards.text_file import read_json_lines, read_text

Row = Mapping[str, object]
FORM = '{"column": value, ...}'
EXTRA = "pip install 'tributary[data]'"


def read_data(path: str, split: str = "") -> list[tuple[str, Row]]:
    """(name for errors, row) of each row, in order. `split` names one of a dataset's splits; other files have none."""
    place = Path(path).expanduser()
    if place.is_dir():
        rows = _dataset_rows(place, path, split)
    elif split:
        raise ValueError(f"split = {split!r}: file = {path!r} is one file, and only a folder of `datasets` has splits")
    elif place.suffix == ".csv":
        rows = _csv_rows(path)
    elif place.suffix == ".parquet":
        rows = _parquet_rows(place, path)
    else:
        rows = _json_rows(path)
    named = list(rows)
    if not named:
        raise ValueError(f"file = {path!r} has no rows: give at least one")
    return named


def _json_rows(path: str) -> Iterator[tuple[str, Row]]:
    for number, row in read_json_lines(path, "file", FORM):
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path} is {str(row)[:80]!r}: it must be {FORM}")
        yield f"line {number} of {path}", row


def _csv_rows(path: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(read_text(path, "file"), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"line {reader.line_num} of {path} has another number of fields than its first line, which names "
                    f"the columns {', '.join(reader.fieldnames or ())}"
                )
            yield f"line {reader.line_num} of {path}", row
    except csv.Error as error:
        raise ValueError(f"{path}, after line {reader.line_num}: {error}. Fix its quotes") from error


def _parquet_rows(place: Path, path: str) -> Iterator[tuple[str, Row]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"file = {path!r}: Parquet files need pyarrow ({EXTRA})") from error
    try:
        rows = parquet.read_table(place).to_pylist()
    except (OSError, ArrowException) as error:
        raise ValueError(f"file = {path!r} is not a Parquet file: {str(error).splitlines()[0]:.120}") from error
    yield from _numbered(rows, path)


def _dataset_rows(place: Path, path: str, split: str) -> Iterator[tuple[str, Row]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"file = {path!r} is a folder, which needs the package datasets ({EXTRA})") from error
    try:
        data: Any = datasets.load_from_disk(str(place))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"file = {path!r} is not a folder of save_to_disk: {str(error).splitlines()[0]:.120}"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if not split and len(data) > 1:
            raise ValueError(f"file = {path!r} has the splits {', '.join(data)}: set split = '...' to one of them")
        if split and split not in data:
            raise ValueError(f"split = {split!r} is not in {path!r}, which has {', '.join(data)}")
        data = data[split or next(iter(data))]
    elif split:
        raise ValueError(f"split = {split!r}: file = {path!r} has no splits. Leave it out")
    yield from _numbered(data, path)


def _numbered(rows: Any, path: str) -> Iterator[tuple[str, Row]]:
    return ((f"row {number} of {path}", row) for number, row in enumerate(rows, start=1))
