"""Plots of a run for its folder, each as .png and as .svg: training, posterior, histogram, evaluation figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formatting import figure as digits
from deploy.report.plot_style import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    LINES,
    add_glossary,
    add_legend,
    literal,
    new_figure,
)
from deploy.telemetry.before_after_table import figure_text
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.task import Figure

SIDES = (("base model", FAINT), ("after GFlowNet fine-tuning", COLOURS[0]))
MAX_POINTS = 3000
COLUMNS = 5
MAX_TITLE_LENGTH = 85
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """The strings that one sampler drew, for `plot_posterior`."""

    log_q: NDArray[np.float64]
    """[N] log-probability of each string under the sampler, nats."""
    log_p: NDArray[np.float64]
    """[N] log R / T - log Z, nats: log-probability of each string under the target."""
    slope: float
    correlation: float
    ess: Figure


def plot_histogram(
    path: Path,
    before: NDArray[np.int_],
    after: NDArray[np.int_],
    n_before: int,
    n_after: int,
    title: str,
) -> None:
    """Histogram of the outcomes 0..K-1: base model above, trained model below.

    before, after: [K] counts of the valid outcomes. n_before, n_after: samples drawn, including invalid ones.
    """
    figure, panels = new_figure(9.0, 5.6, 2, 1, sharex=True)
    shown = title if len(title) <= MAX_TITLE_LENGTH else f"{title[:MAX_TITLE_LENGTH]} ..."
    figure.suptitle(literal(shown), color=INK, fontsize=12, x=0.01, ha="left")
    sides = ((before, n_before), (after, n_after))
    for panel, (counts, n), (name, colour) in zip(panels.flat, sides, SIDES, strict=True):
        _histogram(panel, counts, n, name, colour)
    panels.flat[1].set_xlabel("outcome")
    panels.flat[1].set_xlim(-1, len(before))
    _save(figure, path)


def plot_training(path: Path, rows: Rows, log_z_exact: float | None) -> None:
    """Figures of a run over learner steps. NaN leaves a gap; `log_z_exact` is in nats."""
    figure, panels = new_figure(11.0, 6.2, 2, 3, sharex=True)
    loss, variance, log_z, labels, staleness, seconds = panels.flat
    steps = _column(rows, "step")
    _lines(loss, steps, {"loss": _column(rows, "loss")}, "loss, nats²", log=True)
    _lines(variance, steps, {"Var(u)": _column(rows, "var_u")}, "Var(u) of fresh on-policy samples, nats²", log=True)
    _lines(log_z, steps, {"learned": _column(rows, "log_z")}, "log Z, nats")
    if log_z_exact is not None:
        log_z.axhline(log_z_exact, color=INK, linestyle="--", linewidth=1.2, label=f"exact: {log_z_exact:.3f}")
        add_legend(log_z, "best")
    names = sorted({name for row in rows for name in row.get("labels", {})})
    shares = {name: np.array([_or_nan(row.get("labels", {}).get(name)) for row in rows]) for name in names}
    sampled = np.array([_or_nan(row.get("sampled_step", row["step"])) for row in rows], dtype=np.float64)
    order = np.argsort(sampled, kind="stable")  # the strings of a later step may be of an older policy
    _lines(
        labels,
        sampled[order],
        {name: values[order] for name, values in shares.items()},
        "labels of fresh on-policy samples, mean",
    )
    if all(np.nanmax(values, initial=0) <= 1 and np.nanmin(values, initial=0) >= 0 for values in shares.values()):
        labels.set_ylim(-0.03, 1.2)
        labels.set_yticks(np.linspace(0, 1, 6))
    behind = {"mean": _column(rows, "staleness_mean"), "max": _column(rows, "staleness_max")}
    _lines(staleness, steps, behind, "staleness of fresh samples, versions")
    staleness.set_ylim(-0.05, 1.25 * max(np.nanmax(behind["max"], initial=0), 1))
    _stack_seconds(seconds, steps, _column(rows, "wait_s"), _column(rows, "step_s"))
    for panel in panels[-1]:
        panel.set_xlabel("learner step")
    add_glossary(figure, "u", "log Z")
    _save(figure, path)


def plot_posterior(path: Path, before: Side, after: Side, temperature: float) -> None:
    """log q against the target's log-probability of the strings drawn: base model left, trained model right.

    Points on the line are sampled as often as the target asks. Shows at most MAX_POINTS strings of each sampler.
    """
    figure, panels = new_figure(11.0, 5.4, 1, 2, sharex=True, sharey=True)
    values = np.concatenate([before.log_q, before.log_p, after.log_q, after.log_p])
    finite = values[np.isfinite(values)]
    ends = (float(finite.min(initial=0.0)), float(finite.max(initial=0.0)))
    for panel, side, (name, colour) in zip(panels.flat, (before, after), SIDES, strict=True):
        shown = slice(None, None, -(-len(side.log_q) // MAX_POINTS) or 1)
        panel.plot(
            side.log_p[shown], side.log_q[shown], ".", color=colour, alpha=0.35, markersize=6, markeredgewidth=0,
            rasterized=True, zorder=2.5, label="strings drawn",
        )  # fmt: skip
        panel.plot(ends, ends, color=COLOURS[1], linestyle="--", linewidth=1.5, zorder=3, label="q = target")
        _set_side_title(panel, name, colour)
        ess = "\n".join(figure_text(side.ess))
        statistics = f"slope {digits(side.slope)} · r {digits(side.correlation)} · ess {ess}"
        panel.set_title(statistics, loc="right", color=INK, fontsize=9)
        panel.set_xlabel(f"log R / T - log Z (as the trained samples estimate it), nats; T = {temperature:.3g}")
        panel.grid(axis="x", color=GRID, linewidth=0.8)
    panels.flat[0].set_ylabel("log q, nats")
    add_legend(panels.flat[0], "upper left")
    add_glossary(figure, "log R", "log Z")
    _save(figure, path)


def plot_figures(path: Path, before: Mapping[str, Figure], after: Mapping[str, Figure]) -> None:
    """One small panel per figure: base model next to trained model, with intervals or the side of a bound, if any.

    Figures that both sides lack, or that are the same number without an interval, are omitted.
    """
    pairs = {name: (before.get(name, math.nan), after.get(name, math.nan)) for name in [*before, *after]}
    plotted = {name: pair for name, pair in pairs.items() if _is_informative(*pair)}
    rows = max(-(-len(plotted) // COLUMNS), 1)
    figure, panels = new_figure(2.1 * COLUMNS, 2.1 * rows + 0.4, rows, COLUMNS)
    for panel in panels.flat[len(plotted) :]:
        panel.set_visible(False)
    for panel, (name, pair) in zip(panels.flat, plotted.items(), strict=False):
        _bars(panel, name, pair)
    if plotted:
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=9, ncols=2)
    _save(figure, path)


def _is_informative(before: Figure, after: Figure) -> bool:
    """False if neither value is finite, or both are the same number without an interval."""
    finite = [ends for ends in map(_ends, (before, after)) if math.isfinite(ends[0])]
    return bool(finite) and not (len(finite) == 2 and len({*finite[0], *finite[1]}) == 1)


def _ends(figure: Figure) -> tuple[float, float, float]:
    """(value, low, high); three times the value if there is no interval."""
    if isinstance(figure, Interval) and math.isfinite(figure.low):
        return figure.value, figure.low, figure.high
    value = figure.value if isinstance(figure, (Interval, Bound)) else float(figure)
    return value, value, value


def _bars(panel: Any, name: str, pair: tuple[Figure, Figure]) -> None:
    """Bars from 0 with whiskers for the intervals; the value stands above its bar, or below if it is negative."""
    from matplotlib.ticker import MaxNLocator

    extent = [0.0]
    for x, (figure, (side, colour)) in enumerate(zip(pair, SIDES, strict=True)):
        value, low, high = _ends(figure)
        panel.bar(x, value, width=0.62, color=colour, label=side)
        if not math.isfinite(value):  # shown as a dash at the zero line
            value = low = high = 0.0
        extent += [low, high, value]
        if high > low:  # the value of a skewed figure may lie outside its interval
            panel.vlines(x, low, high, color=INK, linewidth=1.2)
            panel.plot([x, x], [low, high], "_", color=INK, markersize=7)
        up = value >= 0
        end = max(high, value) if up else min(low, value)
        panel.annotate(
            digits(_ends(figure)[0]), (x, end), xytext=(0, 3 if up else -3), textcoords="offset points",
            ha="center", va="bottom" if up else "top", fontsize=8, color=INK,
        )  # fmt: skip
    low, high = min(extent), max(extent)
    margin = 0.2 * ((high - low) or 1.0)
    panel.set_ylim(low - (margin if low < 0 else 0), high + (margin if high > 0 or low == 0 else 0))
    panel.axhline(0, color=FAINT, linewidth=0.8)
    panel.set_xlim(-0.6, 1.6)
    panel.set_xticks([])
    bound = next((figure for figure in pair if isinstance(figure, Bound)), None)
    if bound:
        panel.set_xlabel(bound.note, color=INK, fontsize=8)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    title = f"{name}, {bound.side}" if bound else name
    panel.set_title(literal(title), loc="left", color=INK, fontsize=9)


def _set_side_title(panel: Any, name: str, colour: str) -> None:
    panel.set_title(name, loc="left", color=colour if colour != FAINT else INK, fontsize=11, fontweight="bold")


def _histogram(panel: Any, counts: NDArray[np.int_], n: int, name: str, colour: str) -> None:
    from matplotlib.ticker import PercentFormatter

    size, valid = len(counts), int(counts.sum())
    noise = 2 * math.sqrt((1 - 1 / size) / size / max(n, 1))
    low, high = max(1 / size - noise, 0), 1 / size + noise
    panel.axhspan(low, high, color=COLOURS[1], alpha=0.18, linewidth=0, zorder=0.5, label=r"± 2$\sigma$ of sampling")
    panel.bar(np.arange(size), counts / max(n, 1), width=0.85, color=colour)
    for edge in (low, high):  # the band is drawn behind the bars, its edges in front of them
        panel.axhline(edge, color=COLOURS[1], linewidth=0.7, alpha=0.6)
    panel.axhline(1 / size, color=COLOURS[1], linestyle="--", linewidth=1.5, label=f"uniform: 1/{size}")
    _set_side_title(panel, name, colour)
    panel.set_title(_caption(counts, n, valid), loc="right", color=INK, fontsize=9)
    panel.set_ylabel("share of samples")
    panel.set_ylim(0, 1.22 * max(float(counts.max(initial=0)) / max(n, 1), high))
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    add_legend(panel)


def _caption(counts: NDArray[np.int_], n: int, valid: int) -> str:
    """Share of valid samples, and the plug-in KL with its noise floor: its mean for as many samples of the uniform."""
    if valid == 0:
        return f"{n:,} samples, none valid"
    shares = counts[counts > 0] / valid
    divergence, floor = float((shares * np.log(shares * len(counts))).sum()), (len(counts) - 1) / (2 * valid)
    share = 100 * valid / max(n, 1)
    return f"{n:,} samples · {share:.1f} % valid · KL to uniform {divergence:.3f} nats (noise floor {floor:.3f})"


def _lines(
    panel: Any, steps: NDArray[np.float64], series: Mapping[str, NDArray[np.float64]], title: str, log: bool = False
) -> None:
    for k, (name, values) in enumerate(series.items()):
        shown = np.where(values > 0, values, np.nan) if log else values  # a log axis has no zero
        colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
        panel.plot(
            steps, shown, color=colour, linestyle=line, linewidth=1.5, marker=".", markersize=3, label=literal(name)
        )
        if log and np.isfinite(shown).any():
            panel.set_yscale("log")
    panel.set_title(title, loc="left", color=INK, fontsize=10)
    if len(series) > 1 or (series and title.startswith("labels")):
        add_legend(panel)


def _stack_seconds(
    panel: Any, steps: NDArray[np.float64], wait: NDArray[np.float64], total: NDArray[np.float64]
) -> None:
    """The time of a step, stacked: waiting below, work above."""
    panel.fill_between(steps, 0, wait, color=COLOURS[4], alpha=0.9, linewidth=0, label="waiting for data")
    panel.fill_between(steps, wait, total, color=COLOURS[0], alpha=0.75, linewidth=0, label="evaluating and updating")
    panel.set_ylim(0, 1.25 * np.nanmax(total, initial=1e-3))
    panel.set_title("seconds per step", loc="left", color=INK, fontsize=10)
    add_legend(panel)


def _column(rows: Rows, name: str) -> NDArray[np.float64]:
    return np.array([_or_nan(row.get(name)) for row in rows], dtype=np.float64)


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _save(figure: Any, path: Path) -> None:
    """Write `path`, a PNG, and an SVG next to it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    figure.set_layout_engine("none")  # the PNG has fixed the layout, which takes longer to compute than the drawing
    FigureCanvasSVG(figure).print_svg(path.with_suffix(".svg"))
