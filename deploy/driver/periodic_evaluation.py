"""Evaluation while training: held-out samples every few steps, the best adapter, and an early stop."""

import json
import math
from pathlib import Path
from typing import Any

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Prompt
from deploy.artifacts.adapter_folder import write_adapter
from deploy.artifacts.json_files import append_line, read_lines, write_lines, write_whole
from deploy.driver.describe_adapter import portable
from deploy.driver.evaluation import Judged
from deploy.driver.preflight import Checked
from deploy.driver.samples import judged_prompts
from deploy.formatting import figure
from rewards.task import TRAIN

FILE = "evaluations.jsonl"
BEST = "best"
HELD_OUT = "test"


def evaluated_split(checked: Checked) -> str:
    """The split whose prompts are evaluated while training: the held-out one, where the task has one."""
    return HELD_OUT if HELD_OUT in checked.task.splits else TRAIN


class PeriodicEvaluation:
    """Keeps the evaluations of a run in evaluations.jsonl, and the best adapter in best/."""

    def __init__(self, folder: Path, checked: Checked, first_step: int) -> None:
        """Rows beyond `first_step`, of a session that went further, are deleted."""
        self._folder = folder
        self._config, self._model = checked.config.evaluation, checked.config.model.name
        self.split = evaluated_split(checked)
        self.prompts: list[Prompt] = judged_prompts(checked, self.split) if self._config.every else []
        self._rows = read_lines(folder / FILE)
        self._evaluated_step = first_step
        self.rewind(first_step)

    def rewind(self, step: int) -> None:
        """Forget the evaluations after `step`: the learner goes on from there. best/ keeps its adapter until a better
        one comes."""
        if any(row["step"] > step for row in self._rows):
            self._rows = [row for row in self._rows if row["step"] <= step]
            write_lines(self._folder / FILE, self._rows)
        self._evaluated_step = min(self._evaluated_step, step)

    def is_due(self, step: int) -> bool:
        """True once `every` steps have passed since the last evaluation."""
        return bool(self._config.every) and step - self._evaluated_step >= self._config.every

    def is_behind(self, step: int) -> bool:
        """True if `step` is later than the last evaluation."""
        return bool(self._config.every) and step > self._evaluated_step

    def add(self, step: int, judged: Judged, adapter: tuple[AdapterVersion, AdapterFiles]) -> str:
        """Keep the figures of an evaluation after `step`, and the adapter if it is the best so far; returns a line to
        show. ConfigError for a figure in `best` that the task does not have."""
        self._evaluated_step = step
        figures = {name: value for name, value in judged.metrics.items() if isinstance(value, int | float)}
        row: dict[str, Any] = {"step": step, "version": adapter[0].number, "split": self.split, "figures": figures}
        is_best = self._is_best(figures)
        self._rows.append(row | {"best": is_best})
        append_line(self._folder / FILE, self._rows[-1])
        if is_best:
            self._write_best(step, adapter)
        shown = ", ".join(f"{name} {figure(value)}" for name, value in figures.items() if math.isfinite(value))
        return f"step {step}, split {self.split!r}: {shown}{' (the best so far)' if is_best else ''}"

    @property
    def is_out_of_patience(self) -> bool:
        """True after `patience` evaluations in a row without a better one."""
        n = self._config.patience
        return bool(n) and len(self._rows) > n and not any(row["best"] for row in self._rows[-n:])

    def _is_best(self, figures: dict[str, float]) -> bool:
        if not self._config.best:
            return False
        name, sign = self._config.best.removeprefix("-"), -1.0 if self._config.best.startswith("-") else 1.0
        if name not in figures:
            raise ConfigError(
                f"evaluation.best = {self._config.best!r} is no figure of this task. Its figures: "
                f"{', '.join(sorted(figures))}."
            )
        if not self._rows and not math.isfinite(figures[name]):
            raise ConfigError(
                f"evaluation.best = {self._config.best!r} is {figures[name]} in the first evaluation, of "
                f"evaluation.every_samples = {self._config.every_samples} samples a prompt. Raise that, or choose "
                "another figure."
            )
        earlier = [sign * row["figures"][name] for row in self._rows if row["best"]]
        return math.isfinite(figures[name]) and (not earlier or sign * figures[name] > max(earlier))

    def _write_best(self, step: int, adapter: tuple[AdapterVersion, AdapterFiles]) -> None:
        version, files = adapter
        place = self._folder / BEST
        write_adapter(place, portable(files, self._model))
        about = {"step": step, "version": version.number, "sha256": version.digest}
        write_whole(place / "about.json", json.dumps(about, indent=2).encode())
