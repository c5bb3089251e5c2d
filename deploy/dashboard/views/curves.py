"""Curves for the page, decimated so that spikes and gaps survive, and all of their points as CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Floats, decimate
from deploy.dashboard.views.status import began_at
from deploy.telemetry.figures import FIGURES, describe

MAX_POINTS = 2000
MAX_NAMES = 24
RECENT = 20
"""Newest points that tell whether a figure is defined at present."""
MAX_PROMPTS = 16
"""Prompts whose log Z bounds the catalog lists; the curves of the others can still be requested by name."""


Axis = Literal["step", "time", "samples", "tokens"]
TOTALS = {"samples": "system.trajectories", "tokens": "system.tokens"}
"""Axis -> the curve that has its values over time."""


@dataclass(frozen=True, slots=True)
class CurveQuery:
    """Names of curves and the range of x to return."""

    names: Sequence[str]
    x: Axis = "step"
    begin: float | None = None
    end: float | None = None
    after: float | None = None
    """Exclusive lower bound of x, for the points that a page does not have yet."""
    points: int = MAX_POINTS


def curves(run: RunReader, query: CurveQuery) -> dict[str, Any]:
    """The response of `/api/curves`, as in docs/dashboard-api.md."""
    began = began_at(run) or 0.0
    curves_by_name, missing = {}, []
    for name in query.names:
        curve = run.curve(name)
        x, y = _in_range(*along(run, name, query.x, began), query)
        if not len(curve.y) or not _has_axis(run, query.x):
            missing.append(name)
            continue
        shown_x, shown_y = decimate(x, y, query.points)
        figure = describe(name)
        curves_by_name[name] = {
            "title": figure.title,
            "unit": figure.unit,
            "x": shown_x,
            "y": shown_y,
            "points": len(x),
            "decimated": len(shown_x) < len(x),
            **newest_value(curve.y, figure.sparse),
        }
    return {
        "run": run.id,
        "x": query.x,
        "began_at": began or None,
        "cursor": f"{run.generation}.{run.cursor}",
        "curves": curves_by_name,
        "missing": missing,
    }


def newest_value(y: Floats, is_sparse: bool) -> dict[str, Any]:
    """`last`: the newest finite value, or None where most of the newest RECENT points have none, since a value of long
    ago is not the present one; and the numbers of finite and of all points."""
    finite, recent = y[np.isfinite(y)], y[-RECENT:]
    is_current = is_sparse or 2 * int(np.isfinite(recent).sum()) >= len(recent)
    return {"last": float(finite[-1]) if len(finite) and is_current else None, "finite": len(finite), "of": len(y)}


def catalog(run: RunReader) -> dict[str, Any]:
    """The response of `/api/catalog`."""
    counts = run.learner.counts() | run.snapshots.counts()
    prompts = [name for name in counts if name.startswith("prompt.")]
    longest = sorted(prompts, key=lambda name: -counts[name])[: 2 * MAX_PROMPTS]  # two bounds each
    entries = []
    for name in sorted(counts):
        if name.startswith("prompt.") and name not in longest:
            continue
        entries.append(describe(name).as_dict() | {"points": counts[name]})
    return {"run": run.id, "curves": entries, "figures": [figure.as_dict() for figure in FIGURES.values()]}


def csv_lines(run: RunReader, names: Sequence[str]) -> Iterator[str]:
    """All points as CSV lines after a header; the value is empty where it is not finite."""
    began = began_at(run) or 0.0
    yield "curve,step,time_s,value\r\n"
    for name in names:
        curve = run.curve(name)
        quoted = f'"{name.replace(chr(34), chr(34) * 2)}"'
        for step, at, value in zip(curve.step.tolist(), curve.at.tolist(), curve.y.tolist(), strict=True):
            shown = f"{value:.9g}" if np.isfinite(value) else ""
            yield f"{quoted},{step:.0f},{at - began:.3f},{shown}\r\n"


def _has_axis(run: RunReader, axis: Axis) -> bool:
    return axis not in TOTALS or len(run.curve(TOTALS[axis]).y) > 0


def along(run: RunReader, name: str, axis: Axis = "step", began: float = 0.0) -> tuple[Floats, Floats]:
    """(x, y) of a curve in the order of x. Along steps there is one value a step: of the snapshots within it the last,
    and of strings whose policy was of this step the mean. `began`: Unix time of x = 0 along the time."""
    curve = run.curve(name)
    if axis == "time":
        return np.round(curve.at - began, 3), curve.y
    if axis in TOTALS:
        totals = run.curve(TOTALS[axis])
        if not len(totals.y):
            return curve.at[:0], curve.y[:0]
        x = np.interp(curve.at, totals.at, totals.y)
        order = np.argsort(x, kind="stable")
        return x[order], curve.y[order]
    ends = np.flatnonzero(np.append(np.diff(curve.step) != 0, True)[: len(curve.step)])
    if len(ends) == len(curve.step):
        return curve.step, curve.y
    if not describe(name).sampled:
        return curve.step[ends], curve.y[ends]
    begins = np.append(0, ends[:-1] + 1)
    counts = np.add.reduceat(np.isfinite(curve.y).astype(np.float64), begins)
    sums = np.add.reduceat(np.nan_to_num(curve.y, nan=0.0, posinf=0.0, neginf=0.0), begins)
    return curve.step[ends], np.divide(sums, counts, out=np.full(len(ends), np.nan), where=counts > 0)


def _in_range(x: Floats, y: Floats, query: CurveQuery) -> tuple[Floats, Floats]:
    keep = np.ones(len(x), dtype=np.bool_)
    if query.begin is not None:
        keep &= x >= query.begin
    if query.end is not None:
        keep &= x <= query.end
    if query.after is not None:
        keep &= x > query.after
    return x[keep], y[keep]
