"""Pictures of a run, readable without telling red from green, each as .png and as .svg.

matplotlib is imported when the first one is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formatting import figure as digits
from deploy.formatting import visible
from rewards.judging.bootstrap import Interval
from rewards.task import Figure

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e6e6e6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which keep apart for every kind of colour vision."""
LINES = ("-", "--", "-.", ":")
SIDES = (("base model", FAINT), ("after GFlowNet fine-tuning", COLOURS[0]))
MOST_POINTS = 3000
COLUMNS = 5
TITLE_LENGTH = 85
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Side:
    """What one sampler drew, for `plot_posterior`."""

    log_q: NDArray[np.float64]
    """[N] of each string, nats."""
    log_p: NDArray[np.float64]
    """[N] log R/T - log Z, nats: what log q should be."""
    slope: float
    correlation: float
    ess: float


def plot_histogram(
    path: Path,
    before: NDArray[np.int_],
    after: NDArray[np.int_],
    n_before: int,
    n_after: int,
    title: str,
) -> None:
    """How often each of the outcomes 0..K-1 was drawn, base model above, trained model below.

    before, after: [K] counts of the valid outcomes. n: samples drawn, invalid ones included.
    """
    figure, panels = _figure(9.0, 5.6, 2, 1, sharex=True)
    shown = title if len(title) <= TITLE_LENGTH else f"{title[:TITLE_LENGTH]} ..."
    figure.suptitle(_plain(shown), color=INK, fontsize=12, x=0.01, ha="left")
    drawn = ((before, n_before), (after, n_after))
    for panel, (counts, n), (name, colour) in zip(panels.flat, drawn, SIDES, strict=True):
        _histogram(panel, counts, n, name, colour)
    panels.flat[1].set_xlabel("outcome drawn")
    panels.flat[1].set_xlim(-1, len(before))
    _save(figure, path)


def plot_training(path: Path, rows: Rows, log_z_exact: float | None) -> None:
    """The course of a run over learner steps. NaN leaves a gap; `log_z_exact` is in nats."""
    figure, panels = _figure(11.0, 6.2, 2, 3, sharex=True)
    loss, variance, log_z, labels, staleness, seconds = panels.flat
    steps = _series(rows, "step")
    _lines(loss, steps, {"loss": _series(rows, "loss")}, "loss, nats²", log=True)
    _lines(variance, steps, {"Var(u)": _series(rows, "var_u")}, "Var(u) of fresh on-policy samples, nats²", log=True)
    _lines(log_z, steps, {"learned": _series(rows, "log_z")}, "log Z, nats")
    if log_z_exact is not None:
        log_z.axhline(log_z_exact, color=INK, linestyle="--", linewidth=1.2, label=f"exact: {log_z_exact:.3f}")
        _legend(log_z, "best")
    names = sorted({name for row in rows for name in row.get("labels", {})})
    shares = {name: np.array([_number(row.get("labels", {}).get(name)) for row in rows]) for name in names}
    _lines(labels, steps, shares, "labels of fresh on-policy samples, mean")
    if all(np.nanmax(values, initial=0) <= 1 and np.nanmin(values, initial=0) >= 0 for values in shares.values()):
        labels.set_ylim(-0.03, 1.2)
        labels.set_yticks(np.linspace(0, 1, 6))
    behind = {"mean": _series(rows, "staleness_mean"), "max": _series(rows, "staleness_max")}
    _lines(staleness, steps, behind, "staleness of fresh samples, versions")
    staleness.set_ylim(-0.05, 1.25 * max(np.nanmax(behind["max"], initial=0), 1))
    _seconds(seconds, steps, _series(rows, "wait_s"), _series(rows, "step_s"))
    for panel in panels[-1]:
        panel.set_xlabel("learner step")
    _save(figure, path)


def plot_posterior(path: Path, before: Side, after: Side) -> None:
    """log q against the target's log-probability of the strings drawn, base model left, trained model right: on the
    line where the sampler is right. At most MOST_POINTS strings of each are shown."""
    figure, panels = _figure(11.0, 5.4, 1, 2, sharex=True, sharey=True)
    values = np.concatenate([before.log_q, before.log_p, after.log_q, after.log_p])
    finite = values[np.isfinite(values)]
    ends = (float(finite.min(initial=0.0)), float(finite.max(initial=0.0)))
    for panel, side, (name, colour) in zip(panels.flat, (before, after), SIDES, strict=True):
        some = slice(None, None, -(-len(side.log_q) // MOST_POINTS) or 1)
        panel.plot(
            side.log_p[some], side.log_q[some], ".", color=colour, alpha=0.35, markersize=6, markeredgewidth=0,
            rasterized=True, zorder=2.5, label="strings drawn",
        )  # fmt: skip
        panel.plot(ends, ends, color=COLOURS[1], linestyle="--", linewidth=1.5, zorder=3, label="q = target")
        _name_side(panel, name, colour)
        read = f"slope {digits(side.slope)} · r {digits(side.correlation)} · ess {digits(side.ess)}"
        panel.set_title(read, loc="right", color=INK, fontsize=9)
        panel.set_xlabel("log R / T - log Z (as the trained samples estimate it), nats")
        panel.grid(axis="x", color=GRID, linewidth=0.8)
    panels.flat[0].set_ylabel("log q, nats")
    _legend(panels.flat[0], "upper left")
    _save(figure, path)


def plot_figures(path: Path, before: Mapping[str, Figure], after: Mapping[str, Figure]) -> None:
    """A small panel for each figure, base model beside trained model, with intervals where there are some.

    Figures that neither has, or that are the same numbers without an interval, are left out.
    """
    pairs = {name: (before.get(name, math.nan), after.get(name, math.nan)) for name in [*before, *after]}
    told = {name: pair for name, pair in pairs.items() if _tells(*pair)}
    rows = max(-(-len(told) // COLUMNS), 1)
    figure, panels = _figure(2.1 * COLUMNS, 2.1 * rows + 0.4, rows, COLUMNS)
    for panel in panels.flat[len(told) :]:
        panel.set_visible(False)
    for panel, (name, pair) in zip(panels.flat, told.items(), strict=False):
        _bars(panel, name, pair)
    if told:
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=9, ncols=2)
    _save(figure, path)


def _tells(before: Figure, after: Figure) -> bool:
    """Whether there is something to see."""
    values = [_ends(found) for found in (before, after)]
    known = [v for v in values if math.isfinite(v[0])]
    return bool(known) and not (len(known) == 2 and len({*known[0], *known[1]}) == 1)


def _ends(found: Figure) -> tuple[float, float, float]:
    """(value, low, high); the value itself where there is no interval."""
    if isinstance(found, Interval) and math.isfinite(found.low):
        return found.value, found.low, found.high
    value = found.value if isinstance(found, Interval) else float(found)
    return value, value, value


def _bars(panel: Any, name: str, pair: tuple[Figure, Figure]) -> None:
    """Bars from 0, whiskers for the intervals, each value above (below, where it is negative)."""
    known = [0.0]
    for x, (found, (side, colour)) in enumerate(zip(pair, SIDES, strict=True)):
        value, low, high = _ends(found)
        panel.bar(x, value, width=0.62, color=colour, label=side)
        if not math.isfinite(value):  # a dash at the line says so
            value = low = high = 0.0
        known += [low, high, value]
        if high > low:  # the value of a skewed figure may lie outside of its interval
            panel.vlines(x, low, high, color=INK, linewidth=1.2)
            panel.plot([x, x], [low, high], "_", color=INK, markersize=7)
        up = value >= 0
        end = max(high, value) if up else min(low, value)
        panel.annotate(
            digits(_ends(found)[0]), (x, end), xytext=(0, 3 if up else -3), textcoords="offset points",
            ha="center", va="bottom" if up else "top", fontsize=8, color=INK,
        )  # fmt: skip
    low, high = min(known), max(known)
    room = 0.2 * ((high - low) or 1.0)
    panel.set_ylim(low - (room if low < 0 else 0), high + (room if high > 0 or low == 0 else 0))
    panel.axhline(0, color=FAINT, linewidth=0.8)
    panel.set_xlim(-0.6, 1.6)
    panel.set_xticks([])
    panel.yaxis.set_major_locator(_few_ticks())
    panel.set_title(_plain(name), loc="left", color=INK, fontsize=9)


def _name_side(panel: Any, name: str, colour: str) -> None:
    panel.set_title(name, loc="left", color=colour if colour != FAINT else INK, fontsize=11, fontweight="bold")


def _histogram(panel: Any, counts: NDArray[np.int_], n: int, name: str, colour: str) -> None:
    size, valid = len(counts), int(counts.sum())
    noise = 2 * math.sqrt((1 - 1 / size) / size / max(n, 1))
    low, high = max(1 / size - noise, 0), 1 / size + noise
    panel.axhspan(low, high, color=COLOURS[1], alpha=0.18, linewidth=0, zorder=0.5, label=r"± 2$\sigma$ of sampling")
    panel.bar(np.arange(size), counts / max(n, 1), width=0.85, color=colour)
    for edge in (low, high):  # the band lies behind the bars, its edges before them
        panel.axhline(edge, color=COLOURS[1], linewidth=0.7, alpha=0.6)
    panel.axhline(1 / size, color=COLOURS[1], linestyle="--", linewidth=1.5, label=f"uniform: 1/{size}")
    _name_side(panel, name, colour)
    panel.set_title(_verdict(counts, n, valid), loc="right", color=INK, fontsize=9)
    panel.set_ylabel("share of samples")
    panel.set_ylim(0, 1.22 * max(float(counts.max(initial=0)) / max(n, 1), high))
    panel.yaxis.set_major_formatter(_percent())
    _legend(panel)


def _verdict(counts: NDArray[np.int_], n: int, valid: int) -> str:
    """Valid share, and the plug-in KL with its noise floor: what as many valid samples of the uniform would read."""
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
        shown = np.where(values > 0, values, np.nan) if log else values  # a logarithm has no place for 0
        colour, line = COLOURS[k % len(COLOURS)], LINES[k % len(LINES)]
        panel.plot(
            steps, shown, color=colour, linestyle=line, linewidth=1.5, marker=".", markersize=3, label=_plain(name)
        )
        if log and np.isfinite(shown).any():
            panel.set_yscale("log")
    panel.set_title(title, loc="left", color=INK, fontsize=10)
    if len(series) > 1 or (series and title.startswith("labels")):
        _legend(panel)


def _seconds(panel: Any, steps: NDArray[np.float64], wait: NDArray[np.float64], total: NDArray[np.float64]) -> None:
    """What a step's time went into, stacked: waiting below, work above."""
    panel.fill_between(steps, 0, wait, color=COLOURS[4], alpha=0.9, linewidth=0, label="waiting for data")
    panel.fill_between(steps, wait, total, color=COLOURS[0], alpha=0.75, linewidth=0, label="evaluating and updating")
    panel.set_ylim(0, 1.25 * np.nanmax(total, initial=1e-3))
    panel.set_title("seconds a step", loc="left", color=INK, fontsize=10)
    _legend(panel)


def _legend(panel: Any, loc: str = "upper right") -> None:
    panel.legend(frameon=False, fontsize=8, ncols=2, loc=loc)


def _series(rows: Rows, name: str) -> NDArray[np.float64]:
    return np.array([_number(row.get(name)) for row in rows], dtype=np.float64)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _plain(text: str) -> str:
    """Text as it is: matplotlib would set what stands between dollars as mathematics; XML has no control characters."""
    return visible(text).replace("$", r"\$")


def _figure(
    width: float, height: float, rows: int, columns: int, sharex: bool = False, sharey: bool = False
) -> tuple[Any, Any]:
    """A figure outside of pyplot: nothing global, no window system. Inches."""
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


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10])


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(xmax=1, decimals=None)


def _save(figure: Any, path: Path) -> None:
    """As `path`, a PNG, and as an SVG beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    figure.set_layout_engine("none")  # all has its place, and finding it takes longer than drawing
    FigureCanvasSVG(figure).print_svg(path.with_suffix(".svg"))
