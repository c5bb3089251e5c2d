"""Prometheus metrics of a run: every process exports its own figures through Ray, which adds the prefix `ray_`.

Each process exports the figures that it reports to the driver, when it reports them. Counters count since the process
began; the buffer's totals, which Redis counts for all processes, are gauges. Names: deploy/telemetry/figures.py.
"""

import math
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge

from buffer.store.statistics import BufferStats
from deploy.telemetry.figure import Figure
from deploy.telemetry.figures import in_room
from deploy.telemetry.snapshot import actor_values, buffer_totals, worker_values


class Meter:
    """One process's metrics. Methods take the process's status; figures that are not finite are left out."""

    def __init__(self, run: str, process: str) -> None:
        self._tags = {"run": run, "process": process}
        self._metrics: dict[str, Any] = {}
        self._totals: dict[tuple[str, str], float] = {}
        self._restarts: Tally[str] = Tally()
        self._row: Mapping[str, Any] | None = None
        self._steps, self._waited_s = 0, 0.0

    def actor(self, status: Mapping[str, Any]) -> None:
        """Export `RolloutActor.status`."""
        self._export("actor", actor_values(status))

    def reward(self, status: Mapping[str, Any]) -> None:
        """Export `RewardWorker.status`."""
        self._export("reward", worker_values(status))

    def learner(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Export the new rows of `Learner.drain`; the newest row again where there are none.

        Ray drops a gauge 20 s after it was set last.
        """
        self._steps += len(rows)
        self._waited_s += sum(row["wait_s"] for row in rows)
        self._row = rows[-1] if rows else self._row
        if self._row is not None:
            self._export("learner", {**self._row, "steps": self._steps, "waited_s": self._waited_s})

    def buffer(self, stats: BufferStats) -> None:
        """Export `ReplayBuffer.stats`, from the driver."""
        totals = buffer_totals(stats) or {}
        self._export("buffer", {**totals, "mean_age_s": stats.mean_age_s or 0.0})

    def members(self, ready: Mapping[str, int], wanted: Mapping[str, int], waits: int) -> None:
        """Export processes by role and the number of named waits, from the driver."""
        self._export("run", {"members": ready, "members_wanted": wanted, "waits": waits})

    def restart(self, role: str) -> None:
        """Count a process of this role that died and is started again, from the driver."""
        self._restarts[role] += 1
        self._export("run", {"restarts": self._restarts})

    def _export(self, room: str, values: Mapping[str, Any]) -> None:
        """Export the room's figures that are among `values`; one with a label of its own is a mapping by that label."""
        for figure in in_room(room):
            if not figure.metric or (value := values.get(figure.field)) is None:
                continue
            if not isinstance(value, Mapping):
                self._set(figure, "", value)
                continue
            for name, number in value.items():
                self._set(figure, name, number)

    def _set(self, figure: Figure, name: str, value: float) -> None:
        if not math.isfinite(value):
            return
        tags = {tag: self._tags.get(tag, name) for tag in figure.tags}
        if figure.metric_kind == "gauge":
            self._metric(figure).set(float(value), tags=tags)
            return
        before = self._totals.get((figure.metric, name), 0.0)
        self._totals[figure.metric, name] = value
        increase = value - before if value >= before else value  # a total starts again at 0 with what counts it
        if increase > 0:
            self._metric(figure).inc(float(increase), tags=tags)

    def _metric(self, figure: Figure) -> Any:
        if figure.metric not in self._metrics:
            kind = Counter if figure.metric_kind == "counter" else Gauge
            self._metrics[figure.metric] = kind(figure.metric, description=help_text(figure), tag_keys=figure.tags)
        return self._metrics[figure.metric]


def help_text(figure: Figure) -> str:
    """Meaning and unit of a metric, in ASCII, which is all that Ray takes."""
    return f"{figure.meaning} [{figure.unit or 1}]".replace("²", "^2")
