"""Curves for the page, decimated so that spikes and gaps survive, and all of their points as CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Curve, Floats, decimate
from deploy.dashboard.views.status import began_at
from deploy.telemetry.figures import FIGURES, describe

MAX_POINTS = 2000
MAX_NAMES = 24
MAX_PROMPTS = 16
"""Prompts whose log Z bounds the catalog lists; the curves of the others can still be requested by name."""


@dataclass(frozen=True, slots=True)
class CurveQuery:
    """Names of curves and the range of x to return."""

    names: Sequence[str]
    x: Literal["step", "time"] = "step"
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
        if not len(curve.y):
            missing.append(name)
            continue
        x, y = _in_range(curve, query, began)
        shown_x, shown_y = decimate(x, y, query.points)
        finite = curve.y[np.isfinite(curve.y)]
        figure = describe(name)
        curves_by_name[name] = {
            "title": figure.title,
            "unit": figure.unit,
            "x": shown_x,
            "y": shown_y,
            "points": len(x),
            "decimated": len(shown_x) < len(x),
            "last": float(finite[-1]) if len(finite) else None,
        }
    return {
        "run": run.id,
        "x": query.x,
        "began_at": began or None,
        "cursor": f"{run.generation}.{run.cursor}",
        "curves": curves_by_name,
        "missing": missing,
    }


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


def _in_range(curve: Curve, query: CurveQuery, began: float) -> tuple[Floats, Floats]:
    x = curve.step if query.x == "step" else np.round(curve.at - began, 3)
    keep = np.ones(len(x), dtype=np.bool_)
    if query.begin is not None:
        keep &= x >= query.begin
    if query.end is not None:
        keep &= x <= query.end
    if query.after is not None:
        keep &= x > query.after
    return x[keep], curve.y[keep]
