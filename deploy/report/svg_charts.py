"""The report's pictures, as SVG in memory: the dashboard's plots standing still.

An SVG is shown as an image, so nothing in it could run; text of a task becomes outlines.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import decimate
from deploy.formatting import visible
from deploy.report.run_plots import COLOURS, FAINT, GRID, INK, LINES
from deploy.telemetry.figures import describe

MOST_POINTS = 1500
SIZE_INCHES = (5.6, 2.7)
DOTS = {"linestyle": "none", "marker": "o", "markersize": 2.5, "alpha": 0.5}


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture with what it is called and what it says in words."""

    title: str
    said: str
    """For those who can't see it."""
    svg: bytes


def line_plot(run: RunReader, title: str, names: Sequence[str], log: bool = False) -> Plot | None:
    """Curves over learner steps; None where none of them has a finite point."""
    figure, panel = _panel("learner step")
    said = []
    for k, name in enumerate(names):
        curve = run.curve(name)
        finite = curve.y[np.isfinite(curve.y) & ((curve.y > 0) | (not log))]
        if not len(finite):
            continue
        x, y = decimate(curve.step, curve.y, MOST_POINTS)
        shown = np.array([np.nan if value is None or (log and value <= 0) else value for value in y])
        told = describe(name)
        line = LINES[k % len(LINES)]
        panel.plot(x, shown, color=COLOURS[k % len(COLOURS)], linestyle=line, linewidth=1.2, label=_plain(told.title))
        unit = f" {told.unit}" if told.unit else ""
        said.append(f"{told.title}: {finite[-1]:.4g}{unit} at the end, {finite.min():.4g} to {finite.max():.4g}")
    if not said:
        return None
    if log:
        panel.set_yscale("log")
    units = {describe(name).unit for name in names} - {""}
    panel.set_ylabel(_plain(", ".join(sorted(units))))
    return _plot(figure, panel, title, "; ".join(said) + ".", several=len(said) > 1)


def scatter_plot(posterior: Mapping[str, Any]) -> Plot | None:
    """log q against log R / T of noted samples, with the line of slope 1 through the on-policy ones."""
    x, y = (np.array(posterior["scatter"][name], dtype=np.float64) for name in ("log_reward", "log_q"))
    on_policy = np.array(posterior["scatter"]["on_policy"], dtype=np.bool_)
    if len(x) < 2:
        return None
    figure, panel = _panel("log R / T, nats")
    panel.plot(x[~on_policy], y[~on_policy], color=COLOURS[4], label="other behaviours", **DOTS)
    panel.plot(x[on_policy], y[on_policy], color=COLOURS[0], label="on-policy", **DOTS)
    fit = posterior["fit"]
    words = "too few for a fit"
    if fit and fit["log_z"] is not None:
        ends = np.array([x.min(), x.max()])
        panel.plot(ends, ends - fit["log_z"], color=INK, linestyle="--", linewidth=1, label="log q = log R/T − log Z")
        slope = "not defined" if fit["slope"] is None else f"{fit['slope']:.3f}"
        words = f"slope {slope} (1 at the optimum), log Z {fit['log_z']:.3f} nats"
    panel.set_ylabel("log q, nats")
    return _plot(figure, panel, "log q against log R", f"{len(x)} samples: {words}.", several=True)


def band_plot(title: str, x_label: str, y_label: str, band: Mapping[str, Sequence[float | None]]) -> Plot | None:
    """A mean by position with its outer tenths; `band` as deploy.dashboard.views.rewards.by_position makes it."""
    known = [k for k, value in enumerate(band["mean"]) if value is not None]
    if not known:
        return None
    columns = {name: np.array([band[name][k] for k in known], dtype=np.float64) for name in ("mean", "q10", "q90")}
    figure, panel = _panel(x_label)
    panel.fill_between(known, columns["q10"], columns["q90"], color=COLOURS[0], alpha=0.2, label="10 % to 90 %")
    panel.plot(known, columns["mean"], color=COLOURS[0], marker=".", linewidth=1.2, label="mean")
    panel.set_ylabel(y_label)
    mean = columns["mean"]
    said = f"Mean {mean[0]:.4g} at position {known[0]}, {mean[-1]:.4g} at position {known[-1]}, {y_label}."
    return _plot(figure, panel, title, said, several=True)


def bar_plot(title: str, x_label: str, bins: Sequence[Mapping[str, float]], log_x: bool = False) -> Plot | None:
    """A histogram of numbers of trajectories."""
    if not bins:
        return None
    figure, panel = _panel(x_label)
    low, high, n = (np.array([one[key] for one in bins], dtype=np.float64) for key in ("low", "high", "n"))
    panel.bar(low, n, width=high - low, align="edge", color=COLOURS[0], edgecolor="white", linewidth=0.3)
    if log_x:
        panel.set_xscale("log")
    panel.set_ylabel("trajectories")
    most = int(n.argmax())
    said = f"{n.sum():,.0f} in all; most, {n[most]:,.0f}, from {low[most]:.4g} to {high[most]:.4g}."
    return _plot(figure, panel, title, said, several=False)


def _panel(x_label: str) -> tuple[Any, Any]:
    """A figure outside of pyplot, as in deploy/report/run_plots.py."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained", facecolor="white")
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(which="both", colors=FAINT, labelsize=8)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_xlabel(x_label, color=INK, fontsize=9)
    return figure, panel


def _plot(figure: Any, panel: Any, title: str, said: str, several: bool) -> Plot:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    panel.yaxis.label.set(color=INK, fontsize=9)
    if several:
        panel.legend(frameon=False, fontsize=8, ncols=2)
    file = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return Plot(title, said, file.getvalue())


def _plain(text: str) -> str:
    """As it is: no mathematics between dollars, no control characters."""
    return visible(text).replace("$", r"\$")
