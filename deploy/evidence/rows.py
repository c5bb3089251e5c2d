"""The rows of an experiment: one contender with one seed, read from the files that its run wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from buffer.errors import ConfigError
from deploy.artifacts.json_files import write_json

Summary = Mapping[str, Any]


class Row(BaseModel):
    """One contender with one seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contender: str
    seed: int
    settings: list[str]
    """The recipe, then section.setting=value of the command, as they were given."""
    figures: dict[str, float | None]
    """Figures of the samples; None where the contender has no such figure."""
    verdict: str = ""
    """The certificate's verdict in words; "" where there is none."""
    trajectories: int | None = None
    """Sampled in training."""
    training_s: float | None = None
    command: str
    commit: str
    machine: str


class Rows:
    """The rows in results.json, which is written after each of them."""

    def __init__(self, path: Path) -> None:
        """ConfigError if the file exists and can't be read."""
        self._path = path
        self.rows: list[Row] = []
        if path.exists():
            try:
                self.rows = [Row.model_validate(row) for row in json.loads(path.read_text("utf-8"))["rows"]]
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                raise ConfigError(
                    f"{path} is not a table of results of this release ({error}). Move it away, or give another "
                    "folder with --to."
                ) from error

    def find(self, contender: str, seed: int, settings: Sequence[str]) -> Row | None:
        """The row of this contender and seed, if it was made with the same settings."""
        same = (row for row in self.rows if (row.contender, row.seed) == (contender, seed))
        return next((row for row in same if row.settings == list(settings)), None)

    def add(self, row: Row) -> None:
        """Keep a row instead of an older one of the same contender and seed, and write the file."""
        others = [r for r in self.rows if (r.contender, r.seed) != (row.contender, row.seed)]
        self.rows = [*others, row]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"rows": [r.model_dump() for r in self.rows]})


def figures_of(summary: Summary, side: str) -> dict[str, float | None]:
    """Every figure of a run's summary for `side`, "before" or "after": the task's, the certificate's, and, after
    training, the exact distances where the task lists its strings."""
    certificate = (summary.get("certificate") or {}).get(side) or {}
    exact = summary.get("posterior") or {} if side == "after" else {}
    figures = {**exact, **(certificate.get("figures") or {}), **(summary["metrics"].get(side) or {})}
    return {name: value if isinstance(value, int | float) else None for name, value in figures.items()}


def verdict_of(summary: Summary, side: str) -> str:
    """The certificate's verdict in words; "" where there is none."""
    return str(((summary.get("certificate") or {}).get(side) or {}).get("text", ""))
