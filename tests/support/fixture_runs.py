"""Run folders in every state that the dashboard can show, for tests of the server and of the page.

    make_run(folder, "finished")     empty, live, stale, dead, finished, stopped, failed, judging, long, hostile,
                                     alerts, no_history
    with live_run(folder): ...       a run that is written continuously, as the driver does

The numbers are invented; the shapes and the writer (deploy.telemetry.recorder) are real.
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from buffer.store.statistics import BufferStats
from deploy.artifacts.run_folder import RunFolder
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.recorder import FILE, Recorder
from deploy.telemetry.snapshot import Snapshot, buffer_totals
from rewards.task import Sample
from tests.support.hostile import HOSTILE

STATES = (
    "empty",
    "live",
    "stale",
    "dead",
    "finished",
    "stopped",
    "failed",
    "judging",
    "long",
    "hostile",
    "alerts",
    "no_history",
)
STEPS, LONG = 160, 100_000
LOG_Z = math.log(101)
PROMPTS = {"integer": "A random integer drawn uniformly between 0 and 100:", "letters": "Some letters:"}
FIELDS = {"integer": {"answer": 42, "kind": "a number"}}
LIMITS = {
    "max_grad_norm": 1.0, "batch_size": 64, "publish_every": 1, "canary_tolerance": 5e-4, "reward_temperature_end": 1.0, "capacity": 100_000,
    "samples_per_insert": 2.0, "samples_per_insert_band": 512.0, "min_size_to_sample": 64, "log_z_exact": LOG_Z, "equal_rewards": False, "samples": True,
}  # fmt: skip
ABOUT = {
    "task": "integer", "model": "tiny", "steps": STEPS, "began_at": 0.0, "weights": {}, "limits": LIMITS,
    "behaviours": [{"name": "on_policy", "weight": 1.0}, {"name": "tempered", "weight": 1.0}],
}  # fmt: skip
CONFIG = {
    "seed": 0, "model": {"name": "tiny", "dtype": "float32"}, "task": {"name": "integer"}, "buffer": {"capacity": 100_000},
    "learner": {"steps": STEPS, "batch_size": 64, "learning_rate": 1e-3, "objective": "group_subtb", "advanced": {"max_grad_norm": 1.0}},
}  # fmt: skip

RESULT: dict[str, Any] = {
    "reward_temperature": 1.0,
    "metrics": {
        "before": {"kl_uniform": 2.08, "valid": 0.161, "samples": 2000.0, "log_reward": -19.1, "slope": 0.23, "ess": 0.025, "var_u": 65.7},
        "after": {"kl_uniform": 0.034, "valid": 0.998, "samples": 2000.0, "log_reward": -0.02, "slope": None, "ess": 0.99, "var_u": 0.009},
    },
    "intervals": {"before": {"valid": [0.145, 0.178]}, "after": {"valid": [0.995, 0.999]}},
    "bounds": {"before": {"ess": "at most"}, "after": {"ess": "at most"}},
    "certificate": {
        "before": {"text": "too flat (gap 19 nats)", "figures": {"gap": 19.0, "log_z_low": 4.26, "log_z_high": 4.29}, "intervals": {"gap": [18.7, 19.3]}},
        "after": {"text": "samples the posterior (gap 0.009 nats)", "figures": {"gap": 0.009, "log_z_low": 4.615, "log_z_high": 4.616}, "intervals": {"gap": [0.005, 0.014]}},
    },
}  # fmt: skip
"""What summary.json says of both models."""


def make_run(folder: Path, state: str, config: Mapping[str, Any] = CONFIG) -> Path:
    """Create a run folder in one of STATES; returns its path."""
    run = RunFolder.create(folder, replace=True)
    run.write_config(config)
    rng = np.random.default_rng(1)
    if state == "no_history":
        for step in range(1, STEPS + 1):
            run.append_metrics(learner_row(step, STEPS, rng) | {"elapsed_s": float(step)})
        return run.path
    steps = {"long": LONG, "empty": 0}.get(state, STEPS if state in ("finished", "failed") else STEPS // 2)
    began = time.time() - (3600.0 if state in ("stale", "dead", "finished", "long") else 120.0)
    _write(run.path, steps, began, state, rng)
    return run.path


def _write(path: Path, steps: int, began: float, state: str, rng: np.random.Generator) -> None:
    """Write the tables directly, so that times can be in the past."""
    total = LONG if state == "long" else STEPS
    about = ABOUT | {"began_at": began, "steps": total}
    recorder = Recorder(path / FILE, about, _prompts(state), _pieces, 0, fields=FIELDS)
    assert recorder.trouble is None, recorder.trouble
    store = recorder._store
    assert store is not None
    every = max(steps // 600, 1)
    duration_s = (time.time() if state not in ("stale", "dead", "finished", "long") else began + 3000.0) - began
    for step in range(1, steps):
        at = began + duration_s * step / max(steps, 1)
        recorded = step % every == 0
        row = learner_row(step, total, rng, broken=state == "alerts" and step > steps - 40)
        store.learner(at, step, {**row, **(summary(step, total, rng) if recorded else {})})
        if recorded:
            store.snapshot(
                at, step, snapshot_row(step, at - began, rng, silent=state == "alerts" and step > steps - 20)
            )
            for note in notes(step, total, rng, hostile=state == "hostile")[:: 1 if every == 1 else 4]:
                store.sample(at, step, note)
    if steps:
        recorder.step(learner_row(steps, total, rng), {"rows": [], **summary(steps, total, rng)})
        phase = f"base model: {256:,} samples per prompt" if state == "judging" else "training"
        if state == "alerts":  # an earlier reading, in another phase, since some alerts are of growth
            recorder.snapshot(view(steps - 2, total, duration_s, rng, "learning", alerting=True))
        recorder.snapshot(view(steps, total, duration_s, rng, phase, alerting=state == "alerts"))
        recorder.judged("before", judged(rng, trained=False))
    if state in ("finished", "long", "hostile"):
        recorder.judged("after", judged(rng, trained=True))
        recorder.close(None)
    elif state == "stopped":
        recorder.close("SIGINT")
    elif state == "failed":
        recorder.close(None, "StoreError: Redis at redis://127.0.0.1:6379 does not answer")
    else:
        _leave(store, state)
    if state in ("finished", "long"):
        (path / "summary.json").write_text(json.dumps({"steps": total, **RESULT}))


def _leave(store: HistoryStore, state: str) -> None:
    """Leave the history without an end, as a running or killed run does."""
    if state in ("stale", "dead"):
        rows = store._db.execute("SELECT value FROM meta WHERE key = 'now'").fetchall()
        now = json.loads(rows[0][0])
        store.meta("now", now | {"at": now["at"] - 600.0})
    if state == "dead":
        store.meta("process", {"pid": 2**22 - 3, "host": os.uname().nodename, "started": 1.0})
    store.commit()
    store._db.execute("COMMIT")
    store._db.close()


@contextmanager
def live_run(folder: Path, steps_per_s: float = 4.0, steps: int = STEPS) -> Iterator[Path]:
    """A run whose steps, samples and snapshots a thread writes until the block ends."""
    run = RunFolder.create(folder, replace=True)
    run.write_config(CONFIG)
    stopping, rng = threading.Event(), np.random.default_rng(2)
    began = time.time()

    def write() -> None:
        recorder = Recorder(run.path / FILE, ABOUT | {"began_at": began, "steps": steps}, _prompts("live"), _pieces, 0)
        recorder.judged("before", judged(rng, trained=False))
        step = 0
        while not stopping.is_set():
            step = min(step + 1, steps)
            recorder.step(learner_row(step, steps, rng), {"rows": notes(step, steps, rng), **summary(step, steps, rng)})
            recorder.snapshot(view(step, steps, time.time() - began, rng))
            stopping.wait(1 / steps_per_s)
        recorder.close("SIGTERM")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield run.path
    finally:
        stopping.set()
        thread.join()


def learner_row(step: int, total: int, rng: np.random.Generator, broken: bool = False) -> dict[str, Any]:
    """A row as `Learner.run` reports it; some figures are NaN at some steps, as in real runs."""
    left = math.exp(-4.0 * step / total)
    nan = float("nan")
    return {
        "step": step,
        "loss": nan if step % 61 == 0 else 0.4 + 20 * left * float(rng.lognormal(0, 0.3)),
        "grad_norm": nan if broken else 0.3 + 3 * left * float(rng.lognormal(0, 0.4)),
        "learning_rate": 1e-3 * min(1.0, step / 10),
        "reward_temperature": 1.0,
        "beta": 1.0,
        "skipped_steps": step // 8 if broken else 0,
        "tree_nodes": 410,
        "passes": 1,
        "var_u": nan
        if step % 17 == 0
        else (20.0 + float(rng.normal()) if broken else 0.05 + 8 * left * float(rng.lognormal(0, 0.3))),
        "log_z_lower": LOG_Z - 3 * left - 0.02,
        "log_z_mean": LOG_Z - left + 0.05 * float(rng.normal()),
        "ess": min(1.0, 0.2 + 0.8 * (1 - left)),
        "slope": 1 - left,
        "correlation": 0.98 * (1 - left) + 0.01,
        "log_z": LOG_Z - 2 * left,
        "log_reward": -4 * left,
        "staleness_mean": 1.2,
        "staleness_max": 3,
        "fresh": 32,
        "on_policy": 16,
        "length": 2.0,
        "stopped": 1 - 0.6 * left,
        "cut": 0.6 * left,
        "entropy": 2.3 - left,
        "labels": {"valid": min(1.0, 0.2 + 0.8 * (1 - left)), "distinct": 30.0},
        "missing_mass": 0.4 * left,
        "total_variation": 0.5 * left if step % 10 == 0 else nan,
        "kl": 0.9 * left if step % 10 == 0 else nan,
        "wait_s": 0.02,
        "step_s": 0.4 + 0.02 * float(rng.random()),
        "publish_s": 0.03,
        "version": step,
    }


def summary(step: int, total: int, rng: np.random.Generator) -> dict[str, Any]:
    """Statistics of the fresh rows of a recorded step."""
    left = math.exp(-4.0 * step / total)
    base = -8 * left - 4.6
    return {
        "behaviours": {"on_policy": 0.5, "tempered": 0.5},
        "quantiles": [base - 3, base - 1, base, base + 0.5, base + 1 + 0.1 * float(rng.random())],
        "diversity": 0.7 + 0.25 * (1 - left),
        "diversity_good": 0.5 + 0.49 * (1 - left),
        "terms": {"base": base, "_chars": 2.0},
        "prompts": {name: {"log_z_lower": LOG_Z - 3 * left, "log_z_mean": LOG_Z - left} for name in PROMPTS},
    }


def notes(step: int, total: int, rng: np.random.Generator, hostile: bool = False) -> list[dict[str, Any]]:
    """16 sample rows with their token texts, as the recorder passes them to its store."""
    left = math.exp(-4.0 * step / total)
    rows = []
    for k in range(16):
        text = HOSTILE[(step * 16 + k) % len(HOSTILE)] if hostile else str(int(rng.integers(0, 101)))
        pieces = [text] if hostile else list(text)
        n = len(pieces)
        log_pf = (-2.3 - left * rng.random(n)).round(4)
        log_pterm = np.append(-6.0 + rng.random(n), -0.1).round(4)
        u = (LOG_Z + left * rng.normal(size=n + 1)).round(4)
        reward = np.append(-9.0 + rng.random(n), -left * rng.random()).round(4)
        rows.append(
            {
                "prompt_id": "<img src=x onerror=window.__hit=1>" if hostile and k == 0 else ("letters" if k % 5 == 4 else "integer"),
                "token_ids": list(range(n)),
                "pieces": pieces,
                "is_action": [i != 1 for i in range(n)],
                "behaviour": "tempered" if k % 2 else "on_policy",
                "fresh": k < 12,
                "policy_version": max(step - 1 - k % 3, 0),
                "staleness": 1 + k % 3,
                "content_id": f"{step:08x}{k:02x}",
                "phase": "train",
                "log_q": float(log_pf.sum() + log_pterm[-1]),
                "log_reward": float(reward[-1]),
                "log_pf": log_pf.tolist(),
                "log_pterm": log_pterm.tolist(),
                "u": [None, *u[1:].tolist()],
                "log_reward_prefix": reward.tolist(),
                "terms": {"<b>base</b>" if hostile else "base": reward.tolist(), "_chars": [float(i) for i in range(n + 1)]},
                "labels": {"<i>valid</i>" if hostile else "valid": 1.0},
                "scoring_s": 0.01,
            }
        )  # fmt: skip
    return rows


def judged(rng: np.random.Generator, trained: bool) -> dict[str, list[Sample]]:
    """Evaluation samples of the base or the trained model."""
    low, high = (0, 101) if trained else (0, 1000)
    return {
        name: [
            Sample(
                np.frombuffer(str(rng.integers(low, high)).encode(), np.uint8).astype(np.int32),
                -4.6,
                0.0,
                {"base": 0.0},
            )
            for _ in range(40)
        ]
        for name in PROMPTS
    }


def view(
    step: int, total: int, elapsed_s: float, rng: np.random.Generator, phase: str = "training", alerting: bool = False
) -> Snapshot:
    """A snapshot, as the driver makes it."""
    row = snapshot_row(step, elapsed_s, rng, alerting)
    return Snapshot(
        {"step": step}, stats(step, elapsed_s, rng), row["actors"], phase, elapsed_s, row["waits"], row["rewards"]
    )


def snapshot_row(step: int, elapsed_s: float, rng: np.random.Generator, silent: bool = False) -> dict[str, Any]:
    """The row of a snapshot, as deploy/telemetry/snapshot.py makes it."""

    actors = [
        {
            "name": f"actor-{k}", "trajectories": int(elapsed_s * 20) + k, "tokens": int(elapsed_s * 48), "versions_taken": step, "versions_skipped": 1 + step // 10, "canary_difference_max": 0.0018 if silent else 5e-5, "canaries_exceeded": step if silent else 0,
            "seconds": elapsed_s + 1e-3, "engine_s": elapsed_s * (0.4 + 0.1 * k), "tokens_per_s": 48.0, "version": max(step - (45 if silent else 1), 0),
            "waiting_for": f"actor-{k} waits for reward workers: each has a batch to score and the next one (waiting 2 s, limit 300 s)" if k and step % 3 == 0 else None,
        }
        for k in range(1 if silent else 2)
    ]  # fmt: skip
    worker = {
        "name": "reward-0", "strings": int(elapsed_s * 40), "cache_hits": 0.31, "failed": step // 10 if silent else 0, "last_failure": "log_reward raised ValueError: <b>no</b>" if silent else None,
        "function_s": 3e-4, "slowest_s": 0.002,
    }  # fmt: skip
    waits = [actor["waiting_for"] for actor in actors if actor["waiting_for"]]
    return {
        "phase": "training", "elapsed_s": elapsed_s, "buffer": buffer_totals(stats(step, elapsed_s, rng, silent)), "actors": actors, "rewards": [worker], "waits": waits,
    }  # fmt: skip


def stats(step: int, elapsed_s: float, rng: np.random.Generator, silent: bool = False) -> BufferStats:
    """Statistics of a buffer that fills up."""
    arrivals, drawn = int(elapsed_s * 40) + 1, step * 64
    size = max(int(arrivals * 0.75), 1)
    bins = {-9.0 + 0.25 * k: int(1 + 20 * math.exp(-((k - 30) ** 2) / 60)) for k in range(37)}
    return BufferStats(
        size=size, capacity=100_000, arrivals=arrivals, inserted=size, duplicates=arrivals - size, evicted=0, expired=2, max_draws_reached=0, drawn=drawn, waived=0, updated=drawn, update_misses=1,
        quarantined=step // 10 if silent else 0, near_duplicates=0, refused={"stale": 3, "reward_failed": step // 10 if silent else 0}, fresh_waiting=int(rng.integers(0, 90)), prompts=2, newest_version=step,
        last_insert_age_s=0, mean_age_s=elapsed_s / 2, oldest_age_s=int(elapsed_s), reward_histogram=bins, staleness_histogram={0: 300, 1: 900, 2: 400, 4: 60},
        priority_histogram={2.0 ** (k / 8): int(1 + 50 * math.exp(-((k + 8) ** 2) / 90)) for k in range(-40, 25)}, priority_ess=size * 0.34,
    )  # fmt: skip


def _pieces(token_ids: Any) -> list[str]:
    """Token texts; the tokens of evaluation samples are bytes here."""
    return [chr(token_id) for token_id in token_ids]


def _prompts(state: str) -> dict[str, str]:
    return PROMPTS | (
        {"<img src=x onerror=window.__hit=1>": "\u202e<script>window.__hit=1</script>"} if state == "hostile" else {}
    )
