"""The overview page: state, progress, bottleneck, key figures, waits and alerts of a run."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.bottleneck import WINDOW_S, BottleneckInputs, find_bottleneck
from deploy.dashboard.views.buffer import pace_of
from deploy.dashboard.views.headline import headline
from deploy.dashboard.views.result import result
from deploy.dashboard.views.status import (
    began_at,
    components,
    newest_rate,
    newest_snapshot,
    state_of,
    step_of,
    steps_of,
    updated_at,
)

PACE_STEPS = 50
"""Newest steps from which the time left is estimated."""
DISK_FULL_BYTES = 16 * 2**20


def overview(run: RunReader, now: float | None = None) -> dict[str, Any]:
    """The response of `/api/overview`, as in docs/dashboard-api.md. Call `run.refresh()` first."""
    now = time.time() if now is None else now
    state, sentence = state_of(run, now)
    reading = run.meta.get("now") or {}
    snapshot = newest_snapshot(run)
    updated, began = updated_at(run), began_at(run)
    live = state in ("running", "starting", "judging")
    newest_result = result(run)
    return {
        "run": run.id,
        "name": run.folder.name,
        "state": state,
        "sentence": sentence,
        "now": now,
        "began_at": began,
        "updated_at": updated,
        "age_s": None if updated is None else max(now - updated, 0.0),
        "cursor": f"{run.generation}.{run.cursor}",
        "phase": snapshot.get("phase"),
        "step": step_of(run),
        "steps": steps_of(run),
        "elapsed_s": snapshot.get("elapsed_s") if snapshot else _elapsed(run),
        "left_s": left_s(run) if live else None,
        "bottleneck": _bottleneck(run, now) if state == "running" else None,
        "components": [*components(run, state, now), *_redis(run)],
        "rates": _rates(run, now) if live else dict.fromkeys(_RATES),
        "figures": headline(run, newest_result),
        "result": newest_result,
        "waits": list(snapshot.get("waits", ())) if live else [],
        "alerts": list(reading.get("alerts", ())) if live or state in ("stale", "dead") else [],
        "limits": limits(run),
        "recording": _recording(run, state),
    }


def limits(run: RunReader) -> dict[str, float | None]:
    """Limits of the recipe, which plots draw as lines; None where one is unknown."""
    about = run.meta.get("about") or {}
    if "limits" in about:
        return dict(about["limits"])
    config = run.config()
    learner = config.get("learner", {})
    return {
        "max_grad_norm": learner.get("advanced", {}).get("max_grad_norm"),
        "capacity": config.get("buffer", {}).get("capacity"),
    }


def left_s(run: RunReader) -> float | None:
    """Estimated seconds to the last step, at the pace of the newest PACE_STEPS; None before there are two steps."""
    curve = run.curve("learner.loss")
    step, at = curve.step[-PACE_STEPS:], curve.at[-PACE_STEPS:]
    left = steps_of(run) - step_of(run)
    if len(step) < 2 or step[-1] <= step[0] or left <= 0:
        return None
    return float((at[-1] - at[0]) / (step[-1] - step[0]) * left)


def bottleneck_inputs(run: RunReader, now: float) -> BottleneckInputs:
    """Measurements of the newest WINDOW_S seconds."""
    since = now - WINDOW_S
    snapshot = newest_snapshot(run)
    wait_s, step_s = (run.learner.since(f"learner.{name}", since) for name in ("wait_s", "step_s"))
    if not step_s:  # a step is longer than the window, or the learner has waited all the time
        wait_s, step_s = (run.learner.newest(f"learner.{name}", 3) for name in ("wait_s", "step_s"))
        if any(str(wait).startswith("learner waits") for wait in snapshot.get("waits", ())):
            wait_s, step_s = [1.0], [1.0]
    names = [actor["name"] for actor in snapshot.get("actors", ())]
    pace = pace_of(snapshot.get("buffer"), limits(run))
    return BottleneckInputs(
        learner_waits=sum(wait_s) / sum(step_s) if step_s and sum(step_s) > 0 else None,
        actors_wait=_mean_since(run, [f"actor.{name}.waits" for name in names], since),
        engine_busy=_mean_since(run, [f"actor.{name}.busy" for name in names], since),
        pace=pace["limited"] if pace else None,
        actors_alive=len(names),
    )


def _bottleneck(run: RunReader, now: float) -> dict[str, Any] | None:
    inputs = bottleneck_inputs(run, now)
    bottleneck = find_bottleneck(inputs)
    if bottleneck is None:
        return None
    shares = {name: getattr(inputs, name) for name in ("learner_waits", "actors_wait", "engine_busy")}
    return {**asdict(bottleneck), "shares": shares}


_RATES = ("trajectories_per_s", "tokens_per_s", "steps_per_s")


def _rates(run: RunReader, now: float) -> dict[str, float | None]:
    since = now - WINDOW_S
    steps = run.learner.since("learner.step_s", since)
    return {
        "trajectories_per_s": newest_rate(run, "system.trajectories_per_s"),
        "tokens_per_s": newest_rate(run, "system.tokens_per_s"),
        "steps_per_s": 1.0 / fmean(steps) if steps and fmean(steps) > 0 else None,
    }


def _mean_since(run: RunReader, names: Sequence[str], at: float) -> float | None:
    values = [value for name in names for value in run.snapshots.since(name, at) if math.isfinite(value)]
    return fmean(values) if values else None


def _elapsed(run: RunReader) -> float | None:
    at = run.curve("learner.loss").at
    return float(at[-1] - at[0]) if len(at) else None


def _redis(run: RunReader) -> list[Mapping[str, str]]:
    """The Redis server as a component, if the dashboard was given its address."""
    if run.redis_poller is None:
        return []
    error = run.redis_poller.error
    state = "running" if error is None else "down"
    return [{"name": "redis", "role": "redis", "state": state, "detail": error or "answers"}]


def _recording(run: RunReader, state: str) -> dict[str, Any]:
    if state == "stale" and run.folder.is_dir() and shutil.disk_usage(run.folder).free < DISK_FULL_BYTES:
        sentence = "The disk of the run's folder is full, so its history is not updated. Free some space."
        return {"ok": False, "sentence": sentence}
    if not run.has_history and state != "empty":
        return {"ok": False, "sentence": "This run has no history.sqlite: only the learner's figures are shown."}
    return {"ok": True, "sentence": None}
