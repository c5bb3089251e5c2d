"""The result of a run: base model, trained policy and target side by side, of the newest evaluation there is."""

import math
from collections.abc import Mapping
from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.telemetry.result_figures import AT_TARGET, LOG_Z, TITLES
from rewards.judging import posterior
from rewards.task import TRAIN

SIDES = ("before", "after")
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
        "split": str(values.get("split") or TRAIN),
        "steps": _number(values.get("steps")),
        "samples": _number(metrics["after"].get("samples") or metrics["before"].get("samples")),
        "temperature": _number(values.get("reward_temperature")),
        "rows": [row for row in rows if any(row[side]["value"] is not None for side in SIDES)],
        "verdicts": {side: text if isinstance(text, str) else None for side, text in texts.items()},
        "plot": _plot_name(run) if source != "evaluations.jsonl" else None,
    }


def evaluated(result: Mapping[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The row of one figure in the result; None where the evaluation has no such figure."""
    return next((dict(row) for row in (result or {}).get("rows", ()) if row["name"] == name), None)


def result_plot(run: RunReader, kind: str = "png") -> tuple[str, bytes] | None:
    """(name, content) of the histogram of the outcomes, or else of log q against log R; None without either."""
    name = _plot_name(run, kind)
    content = run.file(f"plots/{name}.{kind}") if name else None
    return (name, content) if name and content else None


def _plot_name(run: RunReader, kind: str = "png") -> str | None:
    return next((name for name in PLOTS if run.changed_at(f"plots/{name}.{kind}")), None)


def _newest(run: RunReader) -> tuple[str, Mapping[str, Any]]:
    """(file, its content) of the newest evaluation; ("", {}) where there is none."""
    held_out = run.newest_held_out()
    contents = {
        "evaluation.json": run.evaluation(),
        "summary.json": run.summary(),
        "evaluations.jsonl": held_out and _of_line(held_out),
    }
    found = [
        (run.changed_at(name) or 0.0, name, values)
        for name, values in contents.items()
        if isinstance(values, dict) and any(_table(values, t, s) for t in ("metrics", "certificate") for s in SIDES)
    ]
    return max(found, key=lambda one: one[0])[1:] if found else ("", {})


def _of_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation while training, of the policy only, in the form of the other files."""
    return {"split": row.get("split"), "steps": row.get("step"), "metrics": {"after": row.get("figures")}}


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
