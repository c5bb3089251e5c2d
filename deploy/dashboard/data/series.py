"""Curves in memory: one array of steps and times for each table, and for each curve the rows that have a value.

NaN is a value: the row has the figure, and it was not finite. A row without the figure is not a point of its curve.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.telemetry.figures import describe, in_room

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve, oldest point first."""

    step: Floats
    """Learner steps."""
    at: Floats
    """Unix time, s."""
    y: Floats


_NO_COLUMN: "tuple[array[int], array[float]]" = (array("l"), array("d"))
NO_CURVE = Curve(np.zeros(0), np.zeros(0), np.zeros(0))


class Series:
    """The rows of one table as columns."""

    def __init__(self) -> None:
        self._step, self._sampled_step, self._at = array("d"), array("d"), array("d")
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        """Name -> indexes of the rows that have a value, and the values."""

    def add(
        self, at: float, step: float, values: Mapping[str, float | None], sampled_step: float | None = None
    ) -> None:
        """Append one row; None is kept as NaN. `sampled_step`: the step whose policy sampled its strings."""
        number = len(self._step)
        self._step.append(step)
        self._sampled_step.append(step if sampled_step is None else sampled_step)
        self._at.append(at)
        columns = self._columns
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = array("l"), array("d")
            column[0].append(number)
            column[1].append(math.nan if value is None else value)

    def counts(self) -> dict[str, int]:
        """Name -> number of points."""
        return {name: len(values) for name, (_, values) in self._columns.items()}

    def curve(self, name: str) -> Curve:
        """The curve, copied; without points for an unknown name."""
        if name not in self._columns:
            return NO_CURVE
        numbers, values = self._columns[name]
        rows = np.array(numbers, dtype=np.int64)
        step, at, y = np.array(self._step)[rows], np.array(self._at)[rows], np.array(values)
        if not describe(name).sampled:
            return Curve(step, at, y)
        step = np.array(self._sampled_step)[rows]
        order = np.argsort(step, kind="stable")  # the strings of a later row may be of an older policy
        return Curve(step[order], at[order], y[order])

    def weighted(self, name: str, weight: str, ends: int = 2000) -> tuple[Floats, Floats]:
        """The values of a figure and of its `weight` in the same rows, oldest row first; 1 in rows without a weight.

        Of a long curve only the first and the last `ends` rows.
        """
        rows, values = (np.array(column) for column in self._columns.get(name, _NO_COLUMN))
        if len(rows) > 2 * ends:
            rows, values = (np.concatenate([column[:ends], column[-ends:]]) for column in (rows, values))
        of_rows, weights = (np.array(column) for column in self._columns.get(weight, _NO_COLUMN))
        places = np.searchsorted(of_rows, rows)
        found = np.append(of_rows, -1)[places] == rows
        return values.astype(np.float64), np.where(found, np.nan_to_num(np.append(weights, 1.0)[places]), 1.0)

    def newest(self, name: str, n: int = 1) -> list[float]:
        """The last n values, oldest first, NaN included."""
        return list(self._columns.get(name, _NO_COLUMN)[1][-n:])

    def since(self, name: str, at: float) -> list[float]:
        """The values at `at` and later, oldest first."""
        newest_first: list[float] = []
        rows, values = self._columns.get(name, _NO_COLUMN)
        for row, value in zip(reversed(rows), reversed(values), strict=True):
            if self._at[row] < at:
                break
            newest_first.append(value)
        return newest_first[::-1]


def decimate(x: Floats, y: Floats, max_points: int) -> tuple[list[float], list[float | None]]:
    """At most `max_points` points: the extremes of each bucket, in order, and one None if any value was not finite.

    Spikes and gaps survive; the first and the last x do too, where they are finite.
    """
    if len(x) <= max_points:
        return x.tolist(), [value if np.isfinite(value) else None for value in y.tolist()]
    width = -(-len(x) // max(max_points // 3, 1))
    padded = np.full(-(-len(x) // width) * width, np.nan)
    padded[: len(y)] = y
    finite, filled = np.isfinite(padded), np.arange(len(padded)) < len(y)
    least = _first(np.where(finite, -padded, -np.inf), finite, width)
    largest = _first(np.where(finite, padded, -np.inf), finite, width)
    gaps = _first((filled & ~finite).astype(np.float64), filled & ~finite, width)
    kept = np.unique(np.concatenate([least, largest, gaps]))
    return x[kept].tolist(), [value if np.isfinite(value) else None for value in y[kept].tolist()]


def _first(score: Floats, eligible: NDArray[np.bool_], width: int) -> NDArray[np.int64]:
    """Index of the highest score of each bucket of `width` that has an eligible entry."""
    best = score.reshape(-1, width).argmax(1) + np.arange(0, len(score), width)
    return np.asarray(best[eligible.reshape(-1, width).any(1)], dtype=np.int64)


def learner_values(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Curve name -> value, of a row of the learner and the figures of its fresh rows."""
    values: dict[str, float | None] = {}
    for name, value in row.items():  # some thousand rows a second may come: names are made once
        if type(value) in _NUMBERS and name not in _NO_CURVES:
            values[_NAMES.get(name) or _NAMES.setdefault(name, f"learner.{name}")] = value
        elif value is None and name not in _SPARSE:
            values[f"learner.{name}"] = None
    step_s, wait_s, publish_s = row.get("step_s"), row.get("wait_s"), row.get("publish_s") or 0.0
    if step_s and wait_s is not None:
        values["learner.work_s"] = step_s - wait_s - publish_s
        values["learner.utilisation"] = 1.0 - wait_s / step_s
        values["learner.nodes_per_s"] = row.get("tree_nodes", 0) / step_s
    lower, mean = row.get("log_z_lower"), row.get("log_z_mean")
    if "log_z_lower" in row:
        values["learner.kl_estimate"] = None if lower is None or mean is None else mean - lower
    for group in ("labels", "terms", "behaviours"):
        values |= {f"learner.{group}.{name}": value for name, value in row.get(group, {}).items()}
    quantiles = zip(("q05", "q25", "q50", "q75", "q95"), row.get("quantiles") or (), strict=False)
    values |= {f"learner.log_reward_{name}": value for name, value in quantiles}
    for prompt, bounds in row.get("prompts", {}).items():
        values |= {f"prompt.{prompt}.{name}": value for name, value in bounds.items()}
    return values


_NO_CURVES = frozenset({"step", "sampled_step", "elapsed_s", "passes"})
_SPARSE = frozenset(figure.field for figure in in_room("learner") if figure.sparse)
_NUMBERS = frozenset({int, float, bool})
_NAMES: dict[str, str] = {}
"""Name of a figure -> name of its curve; as many as the learner has figures."""
