"""What state a run is in, said in one sentence, and the state of each of its parts."""

import math
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil

from deploy.dashboard.data.run_reader import RunReader

STALE_S = 15.0
"""A run that trains says something every second."""
WAITING = " waits "


def state_of(run: RunReader, now: float | None = None) -> tuple[str, str]:
    """(state, sentence); the states are told in docs/dashboard-api.md."""
    now = time.time() if now is None else now
    if end := run.meta.get("end"):
        return _ended(end, steps_of(run))
    if run.live is not None and not run.has_history and not run.folder.is_dir():
        return ("running", "Watching the buffer.") if run.live.error is None else ("down", run.live.error)
    if not run.has_history:
        return _without_history(run, step_of(run), steps_of(run))
    moment = run.meta.get("now")
    silent_s = now - (updated_at(run) or now)
    silent = f"Nothing was written for {_seconds(silent_s)}"
    if silent_s > STALE_S and _is_gone(run.meta.get("process")):
        return "dead", f"{silent} and the run's process is gone: it was killed. `tributary train --resume` goes on."
    if moment is None:
        return "empty", "The run has begun and nothing is recorded yet."
    if silent_s > STALE_S:
        return "stale", f"{silent}: the run is held up, its disk is full, or it was killed on another machine."
    return _of_phase(str(moment["moment"]["phase"]), step_of(run), steps_of(run))


def _ended(end: Mapping[str, Any], steps: int) -> tuple[str, str]:
    if end["error"]:
        return "stopped", f"The run failed after step {end['step']}: {str(end['error']).rstrip('.')}."
    if end["stopped_by"]:
        return "stopped", f"Stopped by {end['stopped_by']} after step {end['step']} of {steps}."
    return "finished", f"Finished: {end['step']} of {steps} steps."


def _of_phase(phase: str, step: int, steps: int) -> tuple[str, str]:
    if phase.startswith("starting"):
        return "starting", "The processes are loading their models."
    if phase.startswith(("base model", "trained model")):
        return "judging", f"Drawing samples to judge: {phase}."
    return "running", f"Training: step {step} of {steps}."


def _without_history(run: RunReader, step: int, steps: int) -> tuple[str, str]:
    if run.summary() is not None:
        return "finished", f"Finished: {step} of {steps} steps. It has no history, only the learner's figures."
    if step:
        return "stale", f"After step {step} of {steps}. It has no history, only the learner's figures."
    return "empty", "Nothing is recorded yet."


def step_of(run: RunReader) -> int:
    """The newest learner step; 0 before the first."""
    end = run.meta.get("end")
    return int(end["step"]) if end else run.newest_step


def steps_of(run: RunReader) -> int:
    """Steps to be done in all."""
    about = run.meta.get("about") or {}
    return int(about.get("steps") or run.config().get("learner", {}).get("steps", 0))


def updated_at(run: RunReader) -> float | None:
    """Unix time of the newest moment; of the beginning before there is one."""
    if now := run.meta.get("now"):
        return float(now["at"])
    return began_at(run)


def began_at(run: RunReader) -> float | None:
    """Unix time of the first thing known of this run."""
    about = run.meta.get("about")
    if about:
        return float(about["began_at"])
    at = run.curve("learner.loss").at
    return float(at[0]) if len(at) else None


def components(run: RunReader, state: str, now: float) -> list[dict[str, str]]:
    """Learner, each actor, each reward worker, the buffer."""
    reading = run.meta.get("now")
    if reading is None:
        return []
    moment, live = reading["moment"], state in ("starting", "running", "judging")
    over = "finished" if state == "finished" else "down" if state in ("dead", "stopped") else "unknown"
    waits = [str(wait) for wait in moment["waits"]]
    found = [{"name": "learner", "role": "learner", **_learner(run, state, waits)}]
    heard = _heard(run)
    for name in sorted({*heard, *(actor["name"] for actor in moment["actors"])}):
        actor = next((a for a in moment["actors"] if a["name"] == name), None)
        found.append({"name": name, "role": "actor", **_actor(actor, now - heard.get(name, now))})
    for worker in moment["rewards"]:
        found.append({"name": worker["name"], "role": "reward", **_worker(worker, waits)})
    if buffer := moment["buffer"]:
        said = f"{buffer['size']:,} of {buffer['capacity']:,}"
        found.append({"name": "buffer", "role": "buffer", "state": "running", "detail": said})
    if not live:
        found = [part | {"state": over} for part in found]
    return found


def _learner(run: RunReader, state: str, waits: list[str]) -> dict[str, str]:
    step = step_of(run)
    if state == "starting":
        return {"state": "starting", "detail": "loading"}
    waiting = next((wait for wait in waits if wait.startswith("learner waits")), None)
    if waiting:
        return {"state": "waiting", "detail": waiting}
    seconds = [value for value in run.learner.newest("learner.step_s", 20) if math.isfinite(value)]
    pace = f", {sum(seconds) / len(seconds):.2g} s a step" if seconds else ""
    return {"state": "running", "detail": f"step {step}{pace}" if step else "no step yet"}


def _actor(actor: Mapping[str, Any] | None, silent_s: float) -> dict[str, str]:
    if actor is None:
        return {"state": "silent", "detail": f"no answer for {_seconds(silent_s)}"}
    if actor["waiting_for"]:
        return {"state": "waiting", "detail": str(actor["waiting_for"])}
    return {"state": "running", "detail": f"version {actor['version']}, {actor['tokens_per_s']:.0f} tokens/s"}


def _worker(worker: Mapping[str, Any], waits: list[str]) -> dict[str, str]:
    held_up = next((wait for wait in waits if wait.startswith(f"{worker['name']} has been at")), None)
    if held_up:
        return {"state": "waiting", "detail": held_up}
    said = f"{worker['strings']:,} strings, {100 * worker['cache_hits']:.0f} % from the cache"
    return {"state": "running", "detail": said + (f", {worker['failed']:,} set aside" if worker["failed"] else "")}


def _heard(run: RunReader) -> dict[str, float]:
    """Actor -> when it last answered, from its curves."""
    names = {name.split(".")[1] for name in run.moments.counts() if name.startswith("actor.")}
    found = {name: run.moments.curve(f"actor.{name}.version").at for name in names}
    return {name: float(at[-1]) for name, at in found.items() if len(at)}


def _is_gone(process: Mapping[str, Any] | None) -> bool:
    """Whether the process that wrote is certainly gone: looked up only on its own machine."""
    if not process or process["host"] != socket.gethostname():
        return False
    try:
        return bool(abs(psutil.Process(process["pid"]).create_time() - process["started"]) > 1.0)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.0f} h"
