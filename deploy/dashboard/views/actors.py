"""The actors page: sampling speed, adapter version and behaviours of each actor."""

from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.status import components, newest_rate, newest_snapshot

MAX_VERSIONS = 200
BEHAVIOUR_ROWS = 1000
"""Newest fresh rows whose behaviours are counted."""
_STATUS_FIELDS = (
    *("seconds", "tokens", "trajectories", "version", "versions_taken", "versions_skipped", "canary_difference_max"),
    *("canaries_exceeded", "waiting_for"),
)
_MEASURED = ("tokens_per_s", "trajectories_per_s", "busy", "behind")


def actor_view(run: RunReader, state: str, now: float) -> dict[str, Any]:
    """The response of `/api/actors`, as in docs/dashboard-api.md."""
    reading = run.meta.get("now") or {}
    restarts = reading.get("restarts", {})
    statuses = {actor["name"]: actor for actor in newest_snapshot(run).get("actors", ())}
    states = {part["name"]: part["state"] for part in components(run, state, now) if part["role"] == "actor"}
    newest = run.learner.newest("learner.version")
    return {
        "run": run.id,
        "newest_version": int(newest[0]) if newest else None,
        "behaviours": _behaviours(run),
        "actors": [
            _actor(run, name, state, statuses.get(name, {}), restarts.get(name, 0)) for name, state in states.items()
        ],
        "versions": [
            {"version": int(row["data"].split()[1]), "step": row["step"], "at": row["at"]}
            for row in run.query(
                f"SELECT at, step, data FROM events WHERE kind = 'version' ORDER BY id DESC LIMIT {MAX_VERSIONS}"
            )
        ],
    }


def _actor(run: RunReader, name: str, state: str, status: dict[str, Any], restarts: int) -> dict[str, Any]:
    at = run.snapshots.curve(f"actor.{name}.version").at
    return {
        "name": name,
        "state": state,
        **{field: status.get(field) for field in _STATUS_FIELDS},
        **{figure: newest_rate(run, f"actor.{name}.{figure}") for figure in _MEASURED},
        "restarts": restarts,
        "answered_at": float(at[-1]) if len(at) else None,
    }


def _behaviours(run: RunReader) -> list[dict[str, Any]]:
    """The configured behaviour mix, and the mix among the newest recorded fresh rows."""
    about = run.meta.get("about") or {}
    weights = {one["name"]: one["weight"] for one in about.get("behaviours", ())}
    total = sum(weights.values())
    fresh = f"SELECT behaviour FROM samples WHERE phase = 'train' AND fresh = 1 ORDER BY id DESC LIMIT {BEHAVIOUR_ROWS}"
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
