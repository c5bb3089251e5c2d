"""The certificates of base model and trained policy, as a table for the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from deploy.telemetry.before_after_table import figures_table
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
    below = [*map(Text, notes), Text(f"Base model: {base}."), Text(f"Trained: {trained}.", "bold")]
    names = WITH_EXACT_DRAWS if "gap" in figures[1] else WITHOUT
    table = figures_table("figure", names, figures, explanations, below)
    table.title, table.title_justify = "Certificate: is it the posterior?", "left"
    return table
