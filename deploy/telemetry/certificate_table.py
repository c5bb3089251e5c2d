"""The certificates of base model and trained policy, as a table for the terminal."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from deploy.telemetry.before_after_table import at_target, figure_text
from rewards.task import Figure

WITH_EXACT_DRAWS = ("log_z_low", "log_z_high", "kl_q_p", "kl_p_q", "gap", "underrated", "overrated", "calibration")
WITHOUT = ("log_z_own", "log_z_known", "log_z_base", "missing")
"""The figures that are shown; all are in evaluation.json."""


def certificate_table(
    figures: tuple[Mapping[str, Figure], Mapping[str, Figure]],
    verdicts: tuple[str, str],
    explanations: Mapping[str, str],
    notes: Sequence[str],
) -> Table:
    """A row for each figure that a verdict rests on; below it both verdicts, the trained policy's last, and `notes`."""
    base, trained = verdicts
    caption = Text.assemble(
        *(f"{note}\n" for note in notes), f"Base model: {base}.\n", (f"Trained: {trained}.", "bold")
    )
    table = Table(
        title="Certificate: is it the posterior?",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=caption,
        caption_justify="left",
        caption_style="",
    )
    table.add_column("figure")
    table.add_column("base model", justify="right")
    table.add_column("trained", justify="right", style="bold")
    table.add_column("target", justify="right")
    for name in WITH_EXACT_DRAWS if "gap" in figures[1] else WITHOUT:
        cells = (figure_text(side.get(name, math.nan)) for side in figures)
        table.add_row(
            Text.assemble(name, (f"\n{explanations[name]}", "dim")),
            *("\n".join(cell) for cell in cells),
            at_target(name),
        )
    return table
