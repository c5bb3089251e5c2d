"""The actors page: who samples how fast, with which version, in which ways."""

from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.status import components

VERSIONS = 200
SEEN = 1000


def actor_view(run: RunReader, state: str, now: float, max_staleness: float | None) -> dict[str, Any]:
    """As `/api/actors` in docs/dashboard-api.md."""
    reading = run.meta.get("now") or {}
    moment, restarts = reading.get("moment", {}), reading.get("restarts", {})
    statuses = {actor["name"]: actor for actor in moment.get("actors", ())}
    states = {part["name"]: part["state"] for part in components(run, state, now) if part["role"] == "actor"}
    newest = run.learner.newest("learner.version")
    return {
        "run": run.id,
        "newest_version": int(newest[0]) if newest else None,
        "max_staleness": max_staleness,
        "behaviours": _behaviours(run),
        "actors": [
            _actor(run, name, shown, statuses.get(name, {}), restarts.get(name, 0)) for name, shown in states.items()
        ],
        "versions": [
            {"version": int(row["data"].split()[1]), "step": row["step"], "at": row["at"]}
            for row in run.query(
                f"SELECT at, step, data FROM events WHERE kind = 'version' ORDER BY id DESC LIMIT {VERSIONS}"
            )
        ],
    }


def _actor(run: RunReader, name: str, state: str, status: dict[str, Any], restarts: int) -> dict[str, Any]:
    figures = ("tokens_per_s", "trajectories_per_s", "busy", "behind")
    newest = {figure: _newest(run, f"actor.{name}.{figure}") for figure in figures}
    at = run.moments.curve(f"actor.{name}.version").at
    told = ("seconds", "tokens", "trajectories", "version", "versions_taken", "canary_difference_max", "waiting_for")
    return {
        "name": name,
        "state": state,
        **{figure: status.get(figure) for figure in told},
        **newest,
        "restarts": restarts,
        "answered_at": float(at[-1]) if len(at) else None,
    }


def _newest(run: RunReader, name: str) -> float | None:
    """Mean of the newest few readings."""
    values = [value for value in run.moments.newest(name, 5) if value == value]
    return sum(values) / len(values) if values else None


def _behaviours(run: RunReader) -> list[dict[str, Any]]:
    """The mix that the recipe asks for, and the one among the newest noted fresh rows."""
    about = run.meta.get("about") or {}
    weights = {one["name"]: one["weight"] for one in about.get("behaviours", ())}
    total = sum(weights.values())
    fresh = f"SELECT behaviour FROM samples WHERE phase = 'train' AND fresh = 1 ORDER BY id DESC LIMIT {SEEN}"
    rows = run.query(f"SELECT behaviour, COUNT(*) AS n FROM ({fresh}) GROUP BY behaviour ORDER BY behaviour")
    seen = {row["behaviour"]: row["n"] for row in rows}
    return [
        {
            "name": name,
            "configured": weights[name] / total if name in weights else None,
            "seen": seen.get(name, 0) / sum(seen.values()) if seen else None,
        }
        for name in {**weights, **seen}
    ]
