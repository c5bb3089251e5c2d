"""Curves from snapshots, with rates over a sliding window."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from deploy.dashboard.data.rate_window import RateWindow
from deploy.telemetry.figures import in_room
from deploy.telemetry.snapshot import actor_values, worker_values

Values = dict[str, float | None]
TOTALS = ("trajectories", "tokens")
"""Totals of all actors, which the page can have as its horizontal axis."""


class SnapshotReader:
    """Turns the snapshots of one run into the values of curves, in their order."""

    def __init__(self) -> None:
        self._windows: dict[str, RateWindow] = {}
        self._actors: dict[str, Mapping[str, float]] = {}
        self._totals = dict.fromkeys(TOTALS, 0.0)

    def values(self, at: float, snapshot: Mapping[str, Any], newest_version: int) -> Values:
        """Curve name -> value of the snapshot of Unix time `at`."""
        values: Values = {}
        if buffer := snapshot.get("buffer"):
            values |= self._buffer(at, buffer)
        for actor in snapshot.get("actors", ()):
            values |= self._actor(actor, newest_version)
        for worker in snapshot.get("rewards", ()):
            values |= self._worker(at, worker)
        for field in (figure.field for figure in in_room("system") if figure.field not in TOTALS):
            per_actor = [values.get(f"actor.{actor['name']}.{field}") for actor in snapshot.get("actors", ())]
            readings = [value for value in per_actor if value is not None]
            if readings:
                values[f"system.{field}"] = sum(readings)
        if self._actors:
            values |= {f"system.{name}": total for name, total in self._totals.items()}
        return values

    def _buffer(self, at: float, totals: Mapping[str, Any]) -> Values:
        changes = self._window("buffer", "").add(at, totals)
        values = _named("buffer", "buffer", {**totals, **changes})
        return values | {f"buffer.refused.{reason}": count for reason, count in totals.get("refused", {}).items()}

    def _actor(self, status: Mapping[str, Any], newest_version: int) -> Values:
        """Rates are by the actor's own clock, which starts again at 0 when the actor does: a gap then."""
        name, values = status["name"], actor_values(status)
        earlier = self._actors.get(name, {})
        for total in TOTALS:  # an actor that was started again counts from 0
            grown = values[total] - earlier.get(total, 0.0)
            self._totals[total] += grown if grown >= 0 else values[total]
        self._actors[name] = values
        changes = self._window("actor", name).add(status["seconds"], values)
        version = status["version"]
        behind = {"behind": max(newest_version - version, 0) if version >= 0 else None}
        return _named("actor", f"actor.{name}", {**values, **behind, **changes})

    def _worker(self, at: float, status: Mapping[str, Any]) -> Values:
        values = worker_values(status)
        return _named(
            "reward", f"reward.{status['name']}", {**values, **self._window("reward", status["name"]).add(at, values)}
        )

    def _window(self, room: str, name: str) -> RateWindow:
        key = f"{room}.{name}"
        if key not in self._windows:
            self._windows[key] = RateWindow(room, begins_at_0=room == "actor")
        return self._windows[key]


def _named(room: str, prefix: str, values: Mapping[str, Any]) -> Values:
    """The values that are kept over time, by the name of their curve."""
    kept = _kept(room)
    return {f"{prefix}.{field}": value for field, value in values.items() if field in kept}


@cache
def _kept(room: str) -> frozenset[str]:
    """Fields of the room's figures that are kept over time, without those that are counted by reason."""
    return frozenset(figure.field for figure in in_room(room) if figure.curve and "REASON" not in figure.name)
