"""figure.svg of an experiment: the figure that decides, a bar for each contender, a dot for each seed."""

from collections.abc import Sequence
from pathlib import Path

from deploy.evidence.experiments import Experiment
from deploy.evidence.rows import Row
from deploy.evidence.table import rows_of, values_of
from deploy.report.plot_style import COLOURS, FAINT, INK, new_figure


def write_figure(path: Path, experiment: Experiment, rows: Sequence[Row]) -> None:
    """Write it; contenders without a value are left out, and no file is written where none has one."""
    name, title = next(iter(experiment.figures.items()))
    bars = [(c, values_of(name, rows_of(c, rows))) for c in experiment.contenders]
    bars = [(contender, values) for contender, values in bars if values][::-1]
    if not bars:
        return
    figure, panels = new_figure(8.0, 1.2 + 0.32 * len(bars))
    panel = panels[0, 0]
    for place, (contender, values) in enumerate(bars):
        colour = COLOURS[0] if contender.trains else FAINT
        panel.barh(place, sum(values) / len(values), color=colour, height=0.7)
        panel.scatter(values, [place] * len(values), color=INK, s=12, zorder=3)
    panel.set_yticks(range(len(bars)), [contender.name for contender, _ in bars])
    panel.set_xlabel(f"{title}: the {experiment.best} is the best")
    figure.savefig(path)
