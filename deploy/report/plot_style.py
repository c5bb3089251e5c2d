"""Style and helpers shared by all plots of a run. Colours, dashes and texts do not rely on telling red from green.

matplotlib is imported when the first figure is drawn.
"""

from typing import Any

from deploy.dashboard.views.glossary import GLOSSARY
from deploy.formatting import visible

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e6e6e6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The palette of Okabe and Ito, distinct for every kind of colour vision."""
LINES = ("-", "--", "-.", ":")


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, sharex: bool = False, sharey: bool = False
) -> tuple[Any, Any]:
    """(figure, panels [rows, columns]) without pyplot: no global state, no window system. Sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(which="both", colors=FAINT, labelsize=8)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.xaxis.label.set_color(INK)
        panel.yaxis.label.set_color(INK)
    return figure, panels


def add_legend(panel: Any, loc: str = "upper right") -> None:
    """The legend of a panel, without a frame."""
    panel.legend(frameon=False, fontsize=8, ncols=2, loc=loc)


def add_glossary(figure: Any, *terms: str) -> None:
    """Explain `terms` below the plots, one line each."""
    figure.supxlabel(
        "\n".join(f"{term}: {GLOSSARY[term]}" for term in terms), x=0.01, ha="left", fontsize=8, color=FAINT
    )


def literal(text: str) -> str:
    """Text for matplotlib as written: no mathematics between dollar signs, no control characters (invalid in XML)."""
    return visible(text).replace("$", r"\$")
