"""The result of a run: base model, trained policy and target side by side, of the newest evaluation there is."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.telemetry.result_figures import AT_TARGET, LOG_Z, TITLES
from rewards.judging import posterior

SIDES = ("before", "after")
FILES = ("evaluation", "summary")
PLOTS = ("histogram", "posterior")
"""Plots of the run's folder that show the result, the more telling one first."""
COUNTS = frozenset({"samples", "unscored"})
OF_TARGET = ("log_reward", "slope", "ess", "var_u")
"""Figures of every task that are shown; the other ones say the same in other words."""
OF_CERTIFICATE = ("log_z_low", "log_z_high", "gap")
WITHOUT_EXACT_DRAWS = ("log_z_lower", "log_z_mean", "kl_to_target")


def result(run: RunReader) -> dict[str, Any] | None:
    """The result card, as in docs/dashboard-api.md; None before the first evaluation."""
    source, values = _newest(run)
    metrics = {side: _table(values, "metrics", side) for side in SIDES}
    if not source:
        return None
    certificates = {side: _table(values, "certificate", side) for side in SIDES}
    figures = {side: metrics[side] | _table(certificates[side], "figures") for side in SIDES}
    intervals = {side: _table(values, "intervals", side) | _table(certificates[side], "intervals") for side in SIDES}
    bounds = {side: _table(values, "bounds", side) for side in SIDES}
    own = [name for name in {**metrics["before"], **metrics["after"]} if name not in posterior.EXPLANATIONS]
    two_sided = any("gap" in side for side in figures.values())
    shown = [*(name for name in own if name not in COUNTS), *(OF_CERTIFICATE if two_sided else WITHOUT_EXACT_DRAWS)]
    log_z = ((run.meta.get("about") or {}).get("limits") or {}).get("log_z_exact")
    targets = {**AT_TARGET} | {name: log_z for name in LOG_Z}
    rows = [
        {"name": name, "title": TITLES.get(name, name), "target": targets.get(name)}
        | {side: _cell(figures[side], intervals[side], bounds[side], name) for side in SIDES}
        for name in (*shown, *OF_TARGET)
    ]
    texts = {side: certificates[side].get("text") for side in SIDES}
    return {
        "source": source,
        "split": str(values.get("split", "train")),
        "steps": _number(values.get("steps")),
        "samples": _number(metrics["after"].get("samples") or metrics["before"].get("samples")),
        "temperature": _number(values.get("reward_temperature")),
        "rows": [row for row in rows if any(row[side]["value"] is not None for side in SIDES)],
        "verdicts": {side: text if isinstance(text, str) else None for side, text in texts.items()},
        "plot": plot.stem if (plot := result_plot(run)) else None,
    }


def evaluated(result: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The row of one figure in the result; None where the evaluation has no such figure."""
    return next((dict(row) for row in (result or {}).get("rows", ()) if row["name"] == name), None)


def result_plot(run: RunReader, kind: str = "png") -> Path | None:
    """The histogram of the outcomes, or else log q against log R; None where the run has neither."""
    files = [run.folder / "plots" / f"{name}.{kind}" for name in PLOTS]
    return next((file for file in files if file.is_file()), None)


def _newest(run: RunReader) -> tuple[str, Mapping[str, Any]]:
    """(file, its content) of the newest evaluation of the training prompts; ("", {}) where there is none."""
    found = []
    for name, values in zip(FILES, (run.evaluation(), run.summary()), strict=True):
        path = run.folder / f"{name}.json"
        if isinstance(values, dict) and path.is_file():
            found.append((path.stat().st_mtime, path.name, values))
    tables = ("metrics", "certificate")
    with_figures = [one for one in found if any(_table(one[2], name, side) for name in tables for side in SIDES)]
    return max(with_figures, key=lambda one: one[0])[1:] if with_figures else ("", {})


def _table(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The table under `keys`; empty where a file lacks it or has something else there."""
    inner: Any = values
    for key in keys:
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return dict(inner) if isinstance(inner, Mapping) else {}


def _cell(
    figures: Mapping[str, Any], intervals: Mapping[str, Any], bounds: Mapping[str, Any], name: str
) -> dict[str, Any]:
    ends = intervals.get(name)
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    side = bounds.get(name)
    return {
        "value": _number(figures.get(name)),
        "low": _number(low),
        "high": _number(high),
        "side": side if side in ("at least", "at most") else None,
    }


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
