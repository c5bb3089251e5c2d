"""Run the contenders of an experiment, row by row, each in a process of its own; no row is made twice.

A row is a `tributary train` of its own, resumed if it was interrupted, or a `tributary evaluate` of the base model
under another way to decode. After each row the three files of the result are whole.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from buffer.errors import TributaryError
from deploy import ROOT
from deploy.artifacts.json_files import write_lines
from deploy.config import load_recipe
from deploy.driver.evaluate_decoding import FILE as DECODING
from deploy.driver.evaluation import evaluation_file
from deploy.driver.exact_draws import SIMULATED
from deploy.driver.preflight import check
from deploy.evidence.experiments import Contender, Experiment
from deploy.evidence.figure import write_figure
from deploy.evidence.rows import Row, Rows, Summary, figures_of, verdict_of
from deploy.evidence.table import write_table
from rewards.task import TRAIN

LINES_OF_A_FAILURE = 15
"""Last lines of a failed command's output that its error shows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an experiment keeps its runs, and where its result goes."""

    runs: Path
    to: Path


def reproduce(
    name: str,
    experiment: Experiment,
    place: Place,
    seeds: int,
    budget_s: float,
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> list[tuple[Contender, int]]:
    """Make the rows that are missing, seed by seed; returns those for which no time was left.

    No row starts after `budget_s`. `overrides` count for all contenders. TributaryError with the output's last lines
    where a command fails; the rows before it are kept.
    """
    rows, began = Rows(place.to / "results.json"), time.monotonic()
    wanted = [(contender, seed) for seed in range(seeds) for contender in experiment.contenders]
    missing = [(c, seed) for c, seed in wanted if rows.find(c.name, seed, _settings(c, overrides)) is None]
    for done, (contender, seed) in enumerate(missing):
        if time.monotonic() - began > budget_s:
            return missing[done:]
        say(f"[{done + 1}/{len(missing)}] {contender.name}, seed {seed}")
        rows.add(_Maker(place.runs, experiment, seed, overrides).row(contender))
        write_table(place.to / "table.md", name, experiment, rows.rows)
        write_figure(place.to / "figure.svg", experiment, rows.rows)
    return []


def run_name(contender: Contender, seed: int, overrides: Sequence[str]) -> str:
    """The folder of a contender's run. It differs between settings: a run with older ones is no row of the new ones."""
    words = "".join(c if c.isalnum() else "-" for c in contender.name)
    settings = json.dumps([contender.recipe, *contender.overrides, *overrides])
    return f"{words}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _settings(contender: Contender, overrides: Sequence[str]) -> list[str]:
    return [contender.recipe, *contender.overrides, *overrides, *contender.decoding]


class _Maker:
    """Makes rows of one seed."""

    def __init__(self, runs: Path, experiment: Experiment, seed: int, overrides: Sequence[str]) -> None:
        self._runs, self._experiment, self._seed, self._overrides = runs, experiment, seed, overrides

    def row(self, contender: Contender) -> Row:
        """Run what the contender needs, and read its figures."""
        trained = contender if contender.trains else self._trained_by(contender)
        run = self._train(trained)
        summary = json.loads((run / "summary.json").read_text("utf-8"))
        figures, verdict = self._judged(contender, run, summary)
        return Row(
            contender=contender.name,
            seed=self._seed,
            settings=_settings(contender, self._overrides),
            figures=figures,
            verdict=verdict,
            trajectories=summary["trajectories"] if contender.trains else None,
            training_s=summary["training_seconds"] if contender.trains else None,
            command=" ".join(["tributary", *self._command(trained, run)]).replace(f"{Path.cwd()}/", ""),
            commit=_commit(),
            machine=_machine(),
        )

    def _judged(self, contender: Contender, run: Path, summary: Summary) -> tuple[dict[str, float | None], str]:
        """The contender's figures on the experiment's splits, and the verdict on the first of them."""
        side = "after" if contender.trains or contender.like else "before"
        splits = self._experiment.splits
        if splits == (TRAIN,) and not contender.decoding:
            return figures_of(summary, side), verdict_of(summary, side)
        results = {
            split: self._evaluate(contender, run, split)
            for split in splits
            if not (contender.decoding and split == SIMULATED)
        }
        figures = {
            name if len(splits) == 1 else f"{split}.{name}": value
            for split, result in results.items()
            for name, value in figures_of(result, side).items()
        }
        return figures, verdict_of(results[splits[0]], side)

    def _trained_by(self, contender: Contender) -> Contender:
        """The contender that trained the policy, or the first one of the same recipe, whose run has the base model."""
        trained = [c for c in self._experiment.contenders if c.trains and c.recipe == contender.recipe]
        return next((c for c in trained if c.name == contender.like), trained[0])

    def _command(self, contender: Contender, run: Path) -> list[str]:
        changes = [*contender.overrides, *self._overrides, f"seed={self._seed}"]
        if contender.teaches:
            changes.append(f'task.demonstrations="{run.with_suffix(".jsonl")}"')
        return ["train", contender.recipe, *changes, "--run", str(run), "--no-dashboard"]

    def _train(self, contender: Contender) -> Path:
        """The folder of the contender's finished run."""
        run = self._runs / run_name(contender, self._seed, self._overrides)
        if (run / "summary.json").is_file() and not json.loads((run / "summary.json").read_text())["stopped_by"]:
            return run
        self._runs.mkdir(parents=True, exist_ok=True)
        if contender.teaches:
            _write_listed_strings(contender.recipe, self._overrides, run.with_suffix(".jsonl"))
        _tributary(
            ["train", "--resume", str(run), "--no-dashboard"]
            if (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir())
            else [*self._command(contender, run), *(["--replace"] if run.is_dir() else [])]
        )
        return run

    def _evaluate(self, contender: Contender, run: Path, split: str) -> Summary:
        """What `tributary evaluate` wrote on a split; that of the policy itself may be there already."""
        path = run / (DECODING if contender.decoding else evaluation_file(split))
        if contender.decoding or not path.is_file():
            options = ["--split", split, *self._experiment.judged, *contender.decoding, "--seed", str(self._seed)]
            _tributary(["evaluate", "--run", str(run), *options])
        result: Summary = json.loads(path.read_text("utf-8"))
        return result


def _write_listed_strings(recipe: str, overrides: Sequence[str], path: Path) -> None:
    """The strings that the recipe's task lists for its training prompts, as a file of demonstrations."""
    checked = check(load_recipe(recipe, overrides))
    listed = checked.task.support()
    write_lines(
        path,
        [
            {"prompt": prompt.id, "response": checked.tokenizer.decode(ids.tolist(), skip_special_tokens=False)}
            for prompt in checked.prompts
            for ids, _ in listed[prompt.id]
        ],
    )


def _tributary(arguments: Sequence[str]) -> None:
    """Run a command of ours. TributaryError with its last lines if it fails."""
    process = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
    )
    if process.returncode:
        last = process.stdout.decode("utf-8", "replace").splitlines()[-LINES_OF_A_FAILURE:]
        raise TributaryError(
            f"`tributary {' '.join(arguments)}` failed with exit code {process.returncode}:\n" + "\n".join(last)
        )


def _commit() -> str:
    """The commit of the code, with a + where files were changed; "unknown" outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _machine() -> str:
    """Cores, memory and architecture."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}"
