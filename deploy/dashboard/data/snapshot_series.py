"""Curves from snapshots. Rates are differences between two snapshots, however far apart they are."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from deploy.telemetry.figures import in_room
from deploy.telemetry.snapshot import actor_values, rates, worker_values

Values = dict[str, float | None]


def snapshot_values(
    before: Mapping[str, Any] | None, snapshot: Mapping[str, Any], seconds: float, newest_version: int
) -> Values:
    """Curve name -> value of a snapshot taken `seconds` after `before`."""
    values: Values = {}
    if buffer := snapshot.get("buffer"):
        values |= _buffer_values((before or {}).get("buffer"), buffer, seconds)
    earlier_actors = _by_name(before, "actors")
    for actor in snapshot.get("actors", ()):
        values |= _actor_values(earlier_actors.get(actor["name"]), actor, newest_version)
    earlier_workers = _by_name(before, "rewards")
    for worker in snapshot.get("rewards", ()):
        values |= _worker_values(earlier_workers.get(worker["name"]), worker, seconds)
    for field in (figure.field for figure in in_room("system")):
        per_actor = [values.get(f"actor.{actor['name']}.{field}") for actor in snapshot.get("actors", ())]
        readings = [value for value in per_actor if value is not None]
        if readings:
            values[f"system.{field}"] = sum(readings)
    return values


def _buffer_values(before: Mapping[str, Any] | None, totals: Mapping[str, Any], seconds: float) -> Values:
    changes = rates("buffer", before, totals, seconds) if before else {}
    values = _named("buffer", "buffer", {**totals, **changes})
    return values | {f"buffer.refused.{reason}": count for reason, count in totals.get("refused", {}).items()}


def _actor_values(before: Mapping[str, Any] | None, status: Mapping[str, Any], newest_version: int) -> Values:
    """Rates are by the actor's own clock, which starts again at 0 when the actor does: a gap then."""
    values = actor_values(status)
    earlier = actor_values(before) if before else dict.fromkeys(values, 0.0)
    seconds = status["seconds"] - before["seconds"] if before else status["seconds"]
    version = status["version"]
    behind = {"behind": max(newest_version - version, 0) if version >= 0 else None}
    return _named("actor", f"actor.{status['name']}", {**values, **behind, **rates("actor", earlier, values, seconds)})


def _worker_values(before: Mapping[str, Any] | None, status: Mapping[str, Any], seconds: float) -> Values:
    values = worker_values(status)
    changes = rates("reward", worker_values(before) if before else {}, values, seconds)
    return _named("reward", f"reward.{status['name']}", {**values, **changes})


def _named(room: str, prefix: str, values: Mapping[str, Any]) -> Values:
    """The values that are kept over time, by the name of their curve."""
    kept = _kept(room)
    return {f"{prefix}.{field}": value for field, value in values.items() if field in kept}


@cache
def _kept(room: str) -> frozenset[str]:
    """Fields of the room's figures that are kept over time, without those that are counted by reason."""
    return frozenset(figure.field for figure in in_room(room) if figure.curve and "REASON" not in figure.name)


def _by_name(snapshot: Mapping[str, Any] | None, kind: str) -> dict[str, Mapping[str, Any]]:
    return {status["name"]: status for status in (snapshot or {}).get(kind, ())}
