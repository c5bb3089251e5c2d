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
    """One row per figure, with its interval; below the table what each figure means, and what they are of (`notes`)."""
    names = [*before, *(name for name in after if name not in before)]
    return figures_table("metric", names, (before, after), explanations, [Text(note) for note in notes])


def figures_table(
    heading: str,
    names: Sequence[str],
    sides: tuple[Mapping[str, Figure], Mapping[str, Figure]],
    explanations: Mapping[str, str],
    below: Sequence[Text],
) -> Table:
    """Base model | trained | target for each of `names`. The explanations stand below it, where a line has room."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left", caption_style="")
    table.add_column(heading, no_wrap=True)
    table.add_column("base model", justify="right")
    table.add_column("trained", justify="right", style="bold")
    table.add_column("target", justify="right", no_wrap=True)
    for name in names:
        cells = (figure_text(side.get(name, math.nan)) for side in sides)
        table.add_row(name, *("\n".join(cell) for cell in cells), at_target(name))
    legend = [Text(f"{name}: {explanations[name]}", "dim") for name in names if name in explanations]
    caption = Text("\n").join([*legend, *([Text("")] if legend and below else []), *below])
    table.caption = caption if caption else None
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
