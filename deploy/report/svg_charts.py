"""Charts of the HTML report as SVG in memory: the plots of the dashboard as static images.

A browser shows an SVG image without running scripts in it; text of a task becomes outlines.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import decimate
from deploy.dashboard.views.curves import along
from deploy.report.plot_style import COLOURS, INK, LINES, add_legend, literal, new_figure
from deploy.telemetry.figures import FIGURES, describe

MAX_POINTS = 1500
SIZE_INCHES = (5.6, 2.7)
DOTS = {"linestyle": "none", "marker": "o", "markersize": 2.5, "alpha": 0.5}


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart with its title and its content in words."""

    title: str
    description: str
    """The content in words: caption, and alternative text for screen readers."""
    svg: bytes


def figure_plot(run: RunReader, name: str, processes: Sequence[str] = ()) -> Plot | None:
    """The curve of a registered figure, or its curves for these processes, under its own title and on its own axis."""
    figure = FIGURES[name]
    names = [name.replace("NAME", process) for process in processes] or [name]
    return line_plot(run, figure.label, names, figure.log)


def line_plot(run: RunReader, title: str, names: Sequence[str], log: bool = False) -> Plot | None:
    """Curves over learner steps; None if no curve has a finite point."""
    figure, panel = _panel("learner step")
    descriptions = []
    for k, name in enumerate(names):
        steps, values = along(run, name)
        finite = values[np.isfinite(values) & ((values > 0) | (not log))]
        if not len(finite):
            continue
        x, y = decimate(steps, values, MAX_POINTS)
        shown = np.array([np.nan if value is None or (log and value <= 0) else value for value in y])
        words = describe(name)
        colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
        panel.plot(x, shown, color=colour, linestyle=line, linewidth=1.2, label=literal(words.title))
        unit = f" {words.unit}" if words.unit else ""
        descriptions.append(
            f"{words.title}: last {finite[-1]:.4g}{unit}, range {finite.min():.4g} to {finite.max():.4g}"
        )
    if not descriptions:
        return None
    if log:
        panel.set_yscale("log")
    units = {describe(name).unit for name in names} - {""}
    panel.set_ylabel(literal(", ".join(sorted(units))))
    return _plot(figure, panel, title, "; ".join(descriptions) + ".", legend=len(descriptions) > 1)


def scatter_plot(posterior: Mapping[str, Any]) -> Plot | None:
    """log q against log R / T of recorded samples, with the line of slope 1 fitted to the on-policy ones."""
    x, y = (np.array(posterior["scatter"][name], dtype=np.float64) for name in ("log_reward", "log_q"))
    on_policy = np.array(posterior["scatter"]["on_policy"], dtype=np.bool_)
    if len(x) < 2:
        return None
    figure, panel = _panel("log R / T, nats")
    panel.plot(x[~on_policy], y[~on_policy], color=COLOURS[4], label="other behaviours", **DOTS)
    panel.plot(x[on_policy], y[on_policy], color=COLOURS[0], label="on-policy", **DOTS)
    fit = posterior["fit"]
    result = "too few samples for a fit"
    if fit and fit["log_z"] is not None:
        ends = np.array([x.min(), x.max()])
        panel.plot(ends, ends - fit["log_z"], color=INK, linestyle="--", linewidth=1, label="log q = log R/T − log Z")
        slope = "undefined" if fit["slope"] is None else f"{fit['slope']:.3f}"
        result = f"slope {slope}, log Z {fit['log_z']:.3f} nats"
    panel.set_ylabel("log q, nats")
    return _plot(figure, panel, "log q against log R", f"{len(x)} samples: {result}.", legend=True)


def band_plot(title: str, x_label: str, y_label: str, band: Mapping[str, Sequence[float | None]]) -> Plot | None:
    """Mean by position with its 10 % to 90 % band; `band` as returned by deploy.dashboard.views.rewards.by_position."""
    positions = [k for k, value in enumerate(band["mean"]) if value is not None]
    if not positions:
        return None
    columns = {name: np.array([band[name][k] for k in positions], dtype=np.float64) for name in ("mean", "q10", "q90")}
    figure, panel = _panel(x_label)
    panel.fill_between(positions, columns["q10"], columns["q90"], color=COLOURS[0], alpha=0.2, label="10 % to 90 %")
    panel.plot(positions, columns["mean"], color=COLOURS[0], marker=".", linewidth=1.2, label="mean")
    panel.set_ylabel(y_label)
    mean = columns["mean"]
    description = f"Mean {mean[0]:.4g} at position {positions[0]}, {mean[-1]:.4g} at {positions[-1]}, in {y_label}."
    return _plot(figure, panel, title, description, legend=True)


def bar_plot(title: str, x_label: str, bins: Sequence[Mapping[str, float]], log_x: bool = False) -> Plot | None:
    """A histogram of trajectories."""
    if not bins:
        return None
    figure, panel = _panel(x_label)
    low, high, n = (np.array([one[key] for one in bins], dtype=np.float64) for key in ("low", "high", "n"))
    panel.bar(low, n, width=high - low, align="edge", color=COLOURS[0], edgecolor="white", linewidth=0.3)
    if log_x:
        panel.set_xscale("log")
    panel.set_ylabel("trajectories")
    mode = int(n.argmax())
    description = f"{n.sum():,.0f} in total; the largest bin, {low[mode]:.4g} to {high[mode]:.4g}, has {n[mode]:,.0f}."
    return _plot(figure, panel, title, description, legend=False)


def _panel(x_label: str) -> tuple[Any, Any]:
    figure, panels = new_figure(*SIZE_INCHES)
    panels[0, 0].set_xlabel(x_label, fontsize=9)
    return figure, panels[0, 0]


def _plot(figure: Any, panel: Any, title: str, description: str, legend: bool) -> Plot:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    panel.yaxis.label.set_fontsize(9)
    if legend:
        add_legend(panel, "best")
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return Plot(title, description, file.getvalue())
