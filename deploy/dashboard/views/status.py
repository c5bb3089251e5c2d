"""The state of a run as a word and a sentence, and the state of each of its components."""

import math
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil

from deploy.dashboard.data.run_reader import RunReader
from deploy.telemetry.snapshot import is_member

STALE_S = 15.0
"""Silence after which a run is stale; a training run writes once a second."""


def state_of(run: RunReader, now: float | None = None) -> tuple[str, str]:
    """(state, sentence); docs/dashboard-api.md lists the states."""
    now = time.time() if now is None else now
    if end := run.meta.get("end"):
        return _ended(end, steps_of(run))
    if run.redis_poller is not None and not run.has_history and not run.folder.is_dir():
        error = run.redis_poller.error
        return ("running", "Reading the buffer from Redis.") if error is None else ("down", error)
    if not run.has_history:
        return _without_history(run, step_of(run), steps_of(run))
    snapshot = newest_snapshot(run)
    silent_s = now - (updated_at(run) or now)
    silent = f"The run has written nothing for {_seconds(silent_s)}"
    if silent_s > STALE_S and _is_gone(run.meta.get("process")):
        return "dead", f"{silent} and its process is gone: it was killed. Continue it with `tributary train --resume`."
    if not snapshot:
        return "empty", "The run has started and has recorded nothing yet."
    if silent_s > STALE_S:
        return "stale", f"{silent}: it hangs, its disk is full, or it was killed on another machine."
    return _of_phase(str(snapshot["phase"]), step_of(run), steps_of(run))


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
        return "judging", f"Drawing samples for evaluation: {phase}."
    return "running", f"Training: step {step} of {steps}."


def _without_history(run: RunReader, step: int, steps: int) -> tuple[str, str]:
    if run.summary() is not None:
        return "finished", f"Finished: {step} of {steps} steps. The run has no history, only the learner's figures."
    if step:
        return "stale", f"After step {step} of {steps}. The run has no history, only the learner's figures."
    return "empty", "Nothing is recorded yet."


def step_of(run: RunReader) -> int:
    """The newest learner step; 0 before the first."""
    end = run.meta.get("end")
    return int(end["step"]) if end else run.newest_step


def steps_of(run: RunReader) -> int:
    """Total learner steps of the run."""
    about = run.meta.get("about") or {}
    return int(about.get("steps") or run.config().get("learner", {}).get("steps", 0))


def updated_at(run: RunReader) -> float | None:
    """Unix time of the newest snapshot; of the start before there is one."""
    if now := run.meta.get("now"):
        return float(now["at"])
    return began_at(run)


def began_at(run: RunReader) -> float | None:
    """Unix time of the start of the run; of its first learner step if the run has no history."""
    about = run.meta.get("about")
    if about:
        return float(about["began_at"])
    at = run.curve("learner.loss").at
    return float(at[0]) if len(at) else None


def newest_snapshot(run: RunReader) -> dict[str, Any]:
    """The newest recorded snapshot of the run's processes; empty before the first."""
    reading = run.meta.get("now") or {}
    return reading.get("snapshot") or {}


def newest_rate(run: RunReader, name: str) -> float | None:
    """The newest value of a curve of snapshots, which rates have over a window already; None if it is not finite."""
    values = run.snapshots.newest(name)
    return values[0] if values and math.isfinite(values[0]) else None


def components(run: RunReader, state: str, now: float) -> list[dict[str, str]]:
    """Learner, each actor, each reward worker, and the buffer."""
    snapshot, live = newest_snapshot(run), state in ("starting", "running", "judging")
    if not snapshot:
        return []
    ended = {"finished": "finished", "stopped": "stopped", "dead": "down"}.get(state, "unknown")
    waits = [str(wait) for wait in snapshot["waits"]]
    parts = [{"name": "learner", "role": "learner", **_learner(run, state, waits)}]
    last_reply = {name: at for name, at in _last_reply(run).items() if is_member(name, snapshot)}
    actors = {actor["name"]: actor for actor in snapshot["actors"]}
    for name in sorted({*last_reply, *actors}):
        parts.append({"name": name, "role": "actor", **_actor(run, actors.get(name), now - last_reply.get(name, now))})
    for worker in snapshot["rewards"]:
        parts.append({"name": worker["name"], "role": "reward", **_worker(worker, waits)})
    if buffer := snapshot["buffer"]:
        detail = f"{buffer['size']:,} of {buffer['capacity']:,}"
        parts.append({"name": "buffer", "role": "buffer", "state": "running", "detail": detail})
    if not live:
        parts = [part | {"state": ended} for part in parts]
    return parts


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


def _actor(run: RunReader, actor: Mapping[str, Any] | None, silent_s: float) -> dict[str, str]:
    if actor is None:
        return {"state": "silent", "detail": f"no answer for {_seconds(silent_s)}"}
    if actor["waiting_for"]:
        return {"state": "waiting", "detail": str(actor["waiting_for"])}
    tokens_per_s = newest_rate(run, f"actor.{actor['name']}.tokens_per_s")
    speed = "" if tokens_per_s is None else f", {tokens_per_s:.0f} tokens/s"
    return {"state": "running", "detail": f"version {actor['version']}{speed}"}


def _worker(worker: Mapping[str, Any], waits: list[str]) -> dict[str, str]:
    slow_call = next((wait for wait in waits if wait.startswith(f"{worker['name']} has been at")), None)
    if slow_call:
        return {"state": "waiting", "detail": slow_call}
    detail = f"{worker['strings']:,} strings, {100 * worker['cache_hits']:.0f} % from the cache"
    return {"state": "running", "detail": detail + (f", {worker['failed']:,} failed" if worker["failed"] else "")}


def _last_reply(run: RunReader) -> dict[str, float]:
    """Actor -> Unix time of its last reply, from its curves."""
    names = {name.split(".")[1] for name in run.snapshots.counts() if name.startswith("actor.")}
    times = {name: run.snapshots.curve(f"actor.{name}.version").at for name in names}
    return {name: float(at[-1]) for name, at in times.items() if len(at)}


def _is_gone(process: Mapping[str, Any] | None) -> bool:
    """True if the process that wrote the history has ended; it can be looked up on its own machine only."""
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
