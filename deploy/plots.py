"""Pictures of a run, readable without telling red from green. matplotlib is imported when the first one is drawn."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e6e6e6"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which keep apart for every kind of colour vision."""
LINES = ("-", "--", "-.", ":")
Rows = Sequence[Mapping[str, Any]]


def plot_histogram(
    path: Path,
    before: NDArray[np.int_],
    after: NDArray[np.int_],
    n_before: int,
    n_after: int,
    title: str,
) -> None:
    """How often each of the outcomes 0..K-1 was drawn, base model above, trained model below, as a PNG.

    before, after: [K] counts of the valid outcomes. n: samples drawn, invalid ones included.
    """
    figure, panels = _figure(9.0, 5.6, 2, 1, sharex=True)
    figure.suptitle(_plain(title), color=INK, fontsize=12, x=0.01, ha="left")
    drawn = ((before, n_before, "base model", FAINT), (after, n_after, "after GFlowNet fine-tuning", COLOURS[0]))
    for panel, (counts, n, name, colour) in zip(panels.flat, drawn, strict=True):
        _histogram(panel, counts, n, name, colour)
    panels.flat[1].set_xlabel("integer drawn")
    panels.flat[1].set_xlim(-1, len(before))
    _save(figure, path)


def plot_training(path: Path, rows: Rows, log_z_exact: float | None) -> None:
    """The course of a run over learner steps, as a PNG. NaN leaves a gap; `log_z_exact` is in nats."""
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


def _histogram(panel: Any, counts: NDArray[np.int_], n: int, name: str, colour: str) -> None:
    size, valid = len(counts), int(counts.sum())
    noise = 2 * math.sqrt((1 - 1 / size) / size / max(n, 1))
    low, high = max(1 / size - noise, 0), 1 / size + noise
    panel.axhspan(low, high, color=COLOURS[1], alpha=0.18, linewidth=0, zorder=0.5, label=r"± 2$\sigma$ of sampling")
    panel.bar(np.arange(size), counts / max(n, 1), width=0.85, color=colour)
    for edge in (low, high):  # the band lies behind the bars, its edges before them
        panel.axhline(edge, color=COLOURS[1], linewidth=0.7, alpha=0.6)
    panel.axhline(1 / size, color=COLOURS[1], linestyle="--", linewidth=1.5, label=f"uniform: 1/{size}")
    panel.set_title(name, loc="left", color=colour if colour != FAINT else INK, fontsize=11, fontweight="bold")
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
    """Text as it is: matplotlib would set what stands between dollars as mathematics."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float, rows: int, columns: int, sharex: bool) -> tuple[Any, Any]:
    """A figure outside of pyplot: nothing global, no window system. Inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, columns, sharex=sharex, squeeze=False)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        panel.tick_params(which="both", colors=FAINT, labelsize=8)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.xaxis.label.set_color(INK)
        panel.yaxis.label.set_color(INK)
    return figure, panels


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(xmax=1, decimals=None)


def _save(figure: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
