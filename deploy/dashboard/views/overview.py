"""The first page in one answer: how the run stands, what it waits for, what is wrong."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.bottleneck import WINDOW_S, Situation, verdict
from deploy.dashboard.views.buffer import pace_of
from deploy.dashboard.views.status import began_at, components, state_of, step_of, steps_of, updated_at

READINGS = 10
"""That a figure is a median of."""
PACE_STEPS = 50
NO_ROOM_BYTES = 16 * 2**20


def overview(run: RunReader, now: float | None = None) -> dict[str, Any]:
    """As `/api/overview` in docs/dashboard-api.md. Refresh the run before."""
    now = time.time() if now is None else now
    state, sentence = state_of(run, now)
    reading = run.meta.get("now") or {}
    moment = reading.get("moment") or {}
    updated, began = updated_at(run), began_at(run)
    live = state in ("running", "starting", "judging")
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
        "phase": moment.get("phase"),
        "step": step_of(run),
        "steps": steps_of(run),
        "elapsed_s": moment.get("elapsed_s") if moment else _elapsed(run),
        "left_s": left_s(run) if live else None,
        "verdict": _verdict(run, now) if state == "running" else None,
        "components": [*components(run, state, now), *_redis(run)],
        "rates": _rates(run, now) if live else dict.fromkeys(_RATES),
        "figures": _figures(run),
        "waits": list(moment.get("waits", ())) if live else [],
        "alerts": list(reading.get("alerts", ())) if live or state in ("stale", "dead") else [],
        "limits": limits(run),
        "recording": _recording(run, state),
    }


def limits(run: RunReader) -> dict[str, float | None]:
    """What the recipe allows, for the lines that plots draw; None where it is not known."""
    about = run.meta.get("about") or {}
    if "limits" in about:
        return dict(about["limits"])
    config = run.config()
    learner = config.get("learner", {})
    return {"max_grad_norm": learner.get("max_grad_norm"), "capacity": config.get("buffer", {}).get("capacity")}


def left_s(run: RunReader) -> float | None:
    """Seconds to the last step at the pace of the newest ones; None before there are two."""
    curve = run.curve("learner.loss")
    step, at = curve.step[-PACE_STEPS:], curve.at[-PACE_STEPS:]
    left = steps_of(run) - step_of(run)
    if len(step) < 2 or step[-1] <= step[0] or left <= 0:
        return None
    return float((at[-1] - at[0]) / (step[-1] - step[0]) * left)


def situation(run: RunReader, now: float) -> Situation:
    """What the verdict rests on, of the newest WINDOW_S."""
    since = now - WINDOW_S
    waited, took = (run.learner.since(f"learner.{name}", since) for name in ("wait_s", "step_s"))
    if not took:  # steps longer than the window, or a learner that waits all through it
        waited, took = (run.learner.newest(f"learner.{name}", 3) for name in ("wait_s", "step_s"))
        reading = (run.meta.get("now") or {}).get("moment", {})
        if any(str(wait).startswith("learner waits") for wait in reading.get("waits", ())):
            waited, took = [1.0], [1.0]
    moment = (run.meta.get("now") or {}).get("moment", {})
    names = [actor["name"] for actor in moment.get("actors", ())]
    pace = pace_of(moment.get("buffer"), limits(run))
    return Situation(
        learner_waits=sum(waited) / sum(took) if took and sum(took) > 0 else None,
        actors_wait=_mean_since(run, [f"actor.{name}.waits" for name in names], since),
        engine_busy=_mean_since(run, [f"actor.{name}.busy" for name in names], since),
        pace=pace["limited"] if pace else None,
        actors_alive=len(names),
    )


def _verdict(run: RunReader, now: float) -> dict[str, Any] | None:
    found = situation(run, now)
    said = verdict(found)
    if said is None:
        return None
    shares = {
        "learner_waits": found.learner_waits,
        "actors_wait": found.actors_wait,
        "engine_busy": found.engine_busy,
    }
    return {"who": said.who, "sentence": said.sentence, "change": said.change, "shares": shares}


_RATES = ("trajectories_per_s", "tokens_per_s", "steps_per_s")


def _rates(run: RunReader, now: float) -> dict[str, float | None]:
    since = now - WINDOW_S
    steps = run.learner.since("learner.step_s", since)
    return {
        "trajectories_per_s": _mean_since(run, ["system.trajectories_per_s"], since),
        "tokens_per_s": _mean_since(run, ["system.tokens_per_s"], since),
        "steps_per_s": 1.0 / fmean(steps) if steps and fmean(steps) > 0 else None,
    }


def _mean_since(run: RunReader, names: Sequence[str], at: float) -> float | None:
    values = [value for name in names for value in run.moments.since(name, at) if math.isfinite(value)]
    return fmean(values) if values else None


def _figures(run: RunReader) -> list[dict[str, Any]]:
    """The three that matter: how far from the posterior, how good, how different."""
    labels = sorted(name for name in run.learner.counts() if name.startswith("learner.labels."))
    valid = next((name for name in labels if name.endswith((".valid", ".accuracy", ".correct"))), "")
    good = valid or (labels[0] if labels else "learner.log_reward")
    title = good.removeprefix("learner.labels.") if labels else "log R, mean"
    return [
        _figure(run, "var_u", "Var(u)", "nats²", "lower", "learner.var_u"),
        _figure(run, "valid", title, _unit(run, good), "higher", good),
        _figure(run, "diversity", "diversity", "share", "higher", "learner.diversity"),
    ]


def _unit(run: RunReader, name: str) -> str:
    if name == "learner.log_reward":
        return "nats"
    values = [value for value in run.learner.newest(name, 100) if math.isfinite(value)]
    return "share" if values and all(0 <= value <= 1 for value in values) else ""


def _figure(run: RunReader, name: str, title: str, unit: str, better: str, curve: str) -> dict[str, Any]:
    values = run.curve(curve).y
    finite = values[np.isfinite(values)]
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "value": median(finite[-READINGS:].tolist()) if len(finite) else None,
        "before": median(finite[:READINGS].tolist()) if len(finite) else None,
        "better": better,
        "curve": curve,
    }


def _elapsed(run: RunReader) -> float | None:
    at = run.curve("learner.loss").at
    return float(at[-1] - at[0]) if len(at) else None


def _redis(run: RunReader) -> list[Mapping[str, str]]:
    """The server itself, where the dashboard was told of one."""
    if run.live is None:
        return []
    error = run.live.error
    state = "running" if error is None else "down"
    return [{"name": "redis", "role": "redis", "state": state, "detail": error or "answers"}]


def _recording(run: RunReader, state: str) -> dict[str, Any]:
    if state == "stale" and run.folder.is_dir() and shutil.disk_usage(run.folder).free < NO_ROOM_BYTES:
        return {"ok": False, "sentence": "The disk of the run's folder is full, so its history stands still."}
    if not run.has_history and state != "empty":
        return {"ok": False, "sentence": "This run has no history.sqlite: only the learner's figures can be shown."}
    return {"ok": True, "sentence": None}
