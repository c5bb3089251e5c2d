"""Curves for the page, thinned out so that spikes and gaps survive; and all of their points for a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Curve, Floats, decimate
from deploy.dashboard.views.status import began_at
from deploy.telemetry.figures import FIGURES, describe

MOST_POINTS = 2000
MOST_NAMES = 24
MOST_PROMPTS = 16
"""Whose bounds are listed; the others' are there for the asking."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which stretch of which curves."""

    names: Sequence[str]
    x: Literal["step", "time"] = "step"
    begin: float | None = None
    end: float | None = None
    after: float | None = None
    """Exclusive."""
    points: int = MOST_POINTS


def curves(run: RunReader, asked: Asked) -> dict[str, Any]:
    """As `/api/curves` in docs/dashboard-api.md."""
    began = began_at(run) or 0.0
    found, missing = {}, []
    for name in asked.names:
        curve = run.curve(name)
        if not len(curve.y):
            missing.append(name)
            continue
        x, y = _stretch(curve, asked, began)
        shown_x, shown_y = decimate(x, y, asked.points)
        finite = curve.y[np.isfinite(curve.y)]
        said = describe(name)
        found[name] = {
            "title": said.title,
            "unit": said.unit,
            "x": shown_x,
            "y": shown_y,
            "points": len(x),
            "decimated": len(shown_x) < len(x),
            "last": float(finite[-1]) if len(finite) else None,
        }
    return {
        "run": run.id,
        "x": asked.x,
        "began_at": began or None,
        "cursor": f"{run.generation}.{run.cursor}",
        "curves": found,
        "missing": missing,
    }


def catalog(run: RunReader) -> dict[str, Any]:
    """As `/api/catalog`."""
    counts = run.learner.counts() | run.moments.counts()
    prompts = [name for name in counts if name.startswith("prompt.")]
    often = sorted(prompts, key=lambda name: -counts[name])[: 2 * MOST_PROMPTS]
    listed = []
    for name in sorted(counts):
        if name.startswith("prompt.") and name not in often:
            continue
        listed.append(describe(name).as_dict() | {"points": counts[name]})
    return {"run": run.id, "curves": listed, "figures": [figure.as_dict() for figure in FIGURES.values()]}


def csv_lines(run: RunReader, names: Sequence[str]) -> Iterator[str]:
    """All points: a header, then a line each; nothing where a value is not finite."""
    began = began_at(run) or 0.0
    yield "curve,step,time_s,value\r\n"
    for name in names:
        curve = run.curve(name)
        quoted = f'"{name.replace(chr(34), chr(34) * 2)}"'
        for step, at, value in zip(curve.step.tolist(), curve.at.tolist(), curve.y.tolist(), strict=True):
            shown = f"{value:.9g}" if np.isfinite(value) else ""
            yield f"{quoted},{step:.0f},{at - began:.3f},{shown}\r\n"


def _stretch(curve: Curve, asked: Asked, began: float) -> tuple[Floats, Floats]:
    x = curve.step if asked.x == "step" else np.round(curve.at - began, 3)
    keep = np.ones(len(x), dtype=np.bool_)
    if asked.begin is not None:
        keep &= x >= asked.begin
    if asked.end is not None:
        keep &= x <= asked.end
    if asked.after is not None:
        keep &= x > asked.after
    return x[keep], curve.y[keep]
