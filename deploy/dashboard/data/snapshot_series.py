"""Curves of what moments say: rates are differences between two of them, so they hold however far apart they are."""

from collections.abc import Mapping
from typing import Any

from deploy.telemetry.snapshot import rates

_BUFFER = (
    *("size", "fill", "fresh_waiting", "priority_ess", "mean_age_s", "draws_per_insert", "unique_ratio", "prompts"),
    "quarantined",
)

Figures = dict[str, float | None]


def moment_figures(
    before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float, newest_version: int
) -> Figures:
    """Curve name -> value of a moment that comes `seconds` after `before`."""
    found: Figures = {}
    if buffer := now.get("buffer"):
        found |= _buffer_figures((before or {}).get("buffer"), buffer, seconds)
    old_actors = _by_name(before, "actors")
    for actor in now.get("actors", ()):
        found |= _actor_figures(old_actors.get(actor["name"]), actor, newest_version)
    old_workers = _by_name(before, "rewards")
    for worker in now.get("rewards", ()):
        found |= _worker_figures(old_workers.get(worker["name"]), worker, seconds)
    for figure in ("tokens_per_s", "trajectories_per_s"):
        each = [found.get(f"actor.{actor['name']}.{figure}") for actor in now.get("actors", ())]
        known = [value for value in each if value is not None]
        if known:
            found[f"system.{figure}"] = sum(known)
    return found


def _buffer_figures(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float) -> Figures:
    found: Figures = {f"buffer.{name}": now.get(name) for name in _BUFFER}
    found |= {f"buffer.refused.{reason}": count for reason, count in now.get("refused", {}).items()}
    if before:
        found |= {f"buffer.{name}": value for name, value in rates(before, now, seconds).items()}
    return found


def _actor_figures(before: Mapping[str, Any] | None, now: Mapping[str, Any], newest_version: int) -> Figures:
    """By the actor's own clock, which starts anew when it does: a gap then."""
    name = f"actor.{now['name']}"
    version = now["version"]
    found: Figures = {
        f"{name}.version": version,
        f"{name}.behind": max(newest_version - version, 0) if version >= 0 else None,
        f"{name}.waits": float(now.get("waiting_for") is not None),
        f"{name}.canary_difference": now["canary_difference_max"],
    }
    lived = now["seconds"] - before["seconds"] if before else now["seconds"]
    old: Mapping[str, Any] = before or {"tokens": 0, "trajectories": 0, "engine_s": 0.0}
    for figure, total in (("tokens_per_s", "tokens"), ("trajectories_per_s", "trajectories"), ("busy", "engine_s")):
        grown = now[total] - old[total]
        found[f"{name}.{figure}"] = grown / lived if lived > 0 and grown >= 0 else None
    return found


def _worker_figures(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float) -> Figures:
    name = f"reward.{now['name']}"
    grown = now["strings"] - before["strings"] if before else None
    return {
        f"{name}.strings_per_s": grown / seconds if grown is not None and grown >= 0 and seconds > 0 else None,
        f"{name}.cache_hits": now["cache_hits"],
        f"{name}.failed": now["failed"],
        f"{name}.function_s": now["function_s"],
        f"{name}.slowest_s": now["slowest_s"],
    }


def _by_name(moment: Mapping[str, Any] | None, kind: str) -> dict[str, Mapping[str, Any]]:
    return {one["name"]: one for one in (moment or {}).get(kind, ())}
