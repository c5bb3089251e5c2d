"""The figures of the base model next to those of the trained one, as a table for the terminal."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from deploy.formatting import figure
from deploy.telemetry.result_figures import AT_TARGET
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.task import Figure


def before_after_table(
    before: Mapping[str, Figure],
    after: Mapping[str, Figure],
    explanations: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Table:
    """One row per figure, with its interval, its explanation, and below the table what the figures are of (`notes`)."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        caption_style="",
    )
    table.add_column("metric")
    table.add_column("base model", justify="right", no_wrap=True)
    table.add_column("trained", justify="right", style="bold", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    for name in [*before, *(name for name in after if name not in before)]:
        metric = Text(name)
        if name in explanations:
            metric.append(f"\n{explanations[name]}", "dim")
        cells = (figure_text(side.get(name, math.nan)) for side in (before, after))
        table.add_row(metric, *("\n".join(cell) for cell in cells), at_target(name))
    return table


def at_target(name: str) -> str:
    """What a figure reads where the sampler is the target; empty where that is not known for any task."""
    return f"{AT_TARGET[name]:g}" if name in AT_TARGET else ""


def figure_text(value: Figure) -> tuple[str, ...]:
    """A figure in words, and its note if it has one: ("0.81 [0.74, 0.88]",) or ("at most 0.2", "K = 10, 1/K = 0.1")."""
    if isinstance(value, Interval):
        ends = f" [{figure(value.low)}, {figure(value.high)}]" if math.isfinite(value.low) else ""
        return (f"{figure(value.value)}{ends}",)
    if not isinstance(value, Bound):
        return (figure(value),)
    if not math.isfinite(value.value):
        return (figure(value.value),)
    return (f"{value.side} {figure(value.value)}", *([value.note] if value.note else []))
