"""The panel that shows a snapshot on a terminal, and the words that a log line shares with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.formatting import clock, figure, visible
from deploy.telemetry.figures import FIGURES
from deploy.telemetry.snapshot import Snapshot
from rewards.config import tells_quality

SPARK_WIDTH = 16
_BLOCKS = "▁▂▃▄▅▆▇█"
_MIN_TWO_COLUMNS, _MAX_WIDTH = 80, 100
"""Columns of the terminal. Below the first, the two halves of the panel are stacked."""
_CURVES = {FIGURES[f"learner.{field}"].title: field for field in ("loss", "var_u", "log_z")}
"""Title -> field of the learner's row."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The context of a snapshot: total steps, time left, course of the figures."""

    steps: int
    """Total learner steps of the run."""
    left_s: float | None
    """Until the last step; None while unknown."""
    history: Mapping[str, Sequence[float]]
    """Name of a curve -> its values so far."""


def draw_panel(title: str, snapshot: Snapshot, progress: Progress, console: Console) -> Panel:
    """The panel for `console`'s width and character set."""
    body = Table.grid(expand=True, padding=(0, 3))
    if console.width < _MIN_TWO_COLUMNS:
        body.add_row(_learning(snapshot, progress))
        body.add_row(_flow(snapshot))
    else:
        body.add_row(_learning(snapshot, progress), _flow(snapshot))
    waits = [Text(visible(wait), "yellow") for wait in snapshot.waits]
    return Panel(
        Group(Text(visible(snapshot.phase), "cyan"), _head(snapshot, progress), Text(), body, *waits),
        title=Text(visible(title), "bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(1, 2),
        width=min(console.width, _MAX_WIDTH),
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """All values in at most `width` blocks: each is the mean of its stretch, a space where no value is finite."""
    stretches = np.array_split(np.asarray(values, dtype=np.float64), max(min(width, len(values)), 1))
    means = [float(part[np.isfinite(part)].mean()) if np.isfinite(part).any() else math.nan for part in stretches]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] if math.isfinite(mean) else " " for mean in means)


def _head(snapshot: Snapshot, progress: Progress) -> Table:
    step = snapshot.row.get("step", 0)
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    left = f" · {clock(progress.left_s)} left" if progress.left_s is not None else ""
    table.add_row(
        Text(f"step {step} of {progress.steps}", "bold"),
        ProgressBar(total=progress.steps, completed=step, complete_style="cyan", finished_style="green"),
        Text(f"{clock(snapshot.elapsed_s)}{left}"),
    )
    return table


def _learning(snapshot: Snapshot, progress: Progress) -> Table:
    """Left half: the learner's figures, each with its course so far."""
    table = _pairs()
    table.add_column(no_wrap=True, style="cyan")
    for name, value in (curves(snapshot.row) or dict.fromkeys(_CURVES, math.nan)).items():
        table.add_row(Text(visible(name)), shown(name, value), sparkline(progress.history.get(name, []), SPARK_WIDTH))
    return table


def _flow(snapshot: Snapshot) -> Table:
    """Right half: the flow through the buffer."""
    table, stats = _pairs(), snapshot.buffer
    if stats:
        table.add_row("buffer", f"{stats.size:,} of {stats.capacity:,}")
        table.add_row(FIGURES["buffer.fresh_waiting"].label, f"{stats.fresh_waiting:,}")
        if stats.quarantined:
            table.add_row(Text(FIGURES["buffer.quarantined"].label, "red"), f"{stats.quarantined:,}")
    table.add_row(FIGURES["learner.staleness_mean"].label, staleness(snapshot.row))
    if strings := sum(worker["strings"] for worker in snapshot.rewards):
        cached = sum(worker["cache_hits"] * worker["strings"] for worker in snapshot.rewards)
        table.add_row(FIGURES["reward.NAME.cache_hits"].label, f"{100 * cached / strings:.0f} %")
    rate = sum(actor["trajectories"] / max(actor["seconds"], 1e-9) for actor in snapshot.actors)
    table.add_row(FIGURES["system.trajectories_per_s"].label, f"{rate:.1f}" if snapshot.actors else "-")
    for actor in snapshot.actors:
        table.add_row(Text(str(actor["name"])), f"{actor['tokens_per_s']:.0f} tokens/s · v{actor['version']}")
    return table


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    return table


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """Title -> value of the figures that are shown with their course, in order; empty before the first step. The terms
    of the reward stand for the labels of a task without any."""
    if "step" not in row:
        return {}
    qualities = row["labels"] or {name: value for name, value in row["terms"].items() if tells_quality(name)}
    return {**{title: row[field] for title, field in _CURVES.items()}, **qualities}


def shown(name: str, value: float) -> str:
    """Three digits; per cent for a label between 0 and 1."""
    is_share = name not in _CURVES and 0 <= value <= 1
    return f"{100 * value:.0f} %" if is_share else figure(value)


def staleness(row: Mapping[str, Any]) -> str:
    """Mean / maximum over the last batch's fresh rows, versions."""
    mean, most = row.get("staleness_mean", math.nan), row.get("staleness_max", math.nan)
    return f"{mean:.1f} / {most:.0f}" if math.isfinite(mean) else "-"
