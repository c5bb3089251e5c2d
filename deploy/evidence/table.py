"""table.md of an experiment: a line for each contender, the mean over its seeds and their range."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from deploy.artifacts.json_files import write_whole
from deploy.evidence.experiments import Contender, Experiment
from deploy.evidence.rows import Row
from deploy.formatting import figure

WIDTH = 110
"""Columns of prose."""


def write_table(path: Path, name: str, experiment: Experiment, rows: Sequence[Row]) -> None:
    """Write it as Markdown."""
    heads = ["contender", *experiment.figures.values(), "seeds", "trajectories", "training, min", "certificate"]
    body = [_line(contender, experiment, of) for contender in experiment.contenders if (of := rows_of(contender, rows))]
    first = next(iter(experiment.figures.values()))
    missing = [c.name for c in experiment.contenders if not rows_of(c, rows)]
    commits = sorted({row.commit for row in rows})
    lines = [
        f"# {experiment.title}",
        "",
        *wrap(
            f"`tributary reproduce {name}`; commit {', '.join(commits)}; {rows[0].machine}. {first} decides: the "
            f"{experiment.best} is the best. Means over seeds, and the range of the seeds in brackets.",
            WIDTH,
        ),
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(cells) + " |" for cells in body),
        "",
        *([*wrap(f"Not run yet: {', '.join(missing)}.", WIDTH), ""] if missing else []),
        *(f"Published, on other models: {source}: {words}." for source, words in experiment.published.items()),
    ]
    write_whole(path, "\n".join(lines).rstrip().encode() + b"\n")


def rows_of(contender: Contender, rows: Sequence[Row]) -> list[Row]:
    """Its rows, by seed."""
    return sorted((row for row in rows if row.contender == contender.name), key=lambda row: row.seed)


def values_of(name: str, rows: Sequence[Row]) -> list[float]:
    """The finite values of a figure."""
    values = (row.figures.get(name) for row in rows)
    return [value for value in values if value is not None and math.isfinite(value)]


def _line(contender: Contender, experiment: Experiment, rows: Sequence[Row]) -> list[str]:
    seconds = [row.training_s for row in rows if row.training_s is not None]
    trajectories = [float(row.trajectories) for row in rows if row.trajectories is not None]
    return [
        contender.name,
        *(_mean(values_of(name, rows)) for name in experiment.figures),
        str(len(rows)),
        _mean(trajectories),
        _mean([s / 60 for s in seconds]),
        rows[0].verdict.partition(" (")[0] or "-",
    ]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = figure(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} [{figure(min(values))}, {figure(max(values))}]"
