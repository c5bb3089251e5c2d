"""What Prometheus sees of a run: every process exports its own figures through Ray, which adds the prefix `ray_`.

Each process exports what it tells the driver anyway, at the moment it does. Counters count since the process began;
what Redis counts for all processes (`tributary_buffer_...`) are gauges of its totals since the buffer was cleared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge

from buffer.store.statistics import BufferStats


@dataclass(frozen=True, slots=True)
class Metric:
    """One name."""

    kind: Literal["counter", "gauge"]
    unit: str
    meaning: str
    tags: tuple[str, ...] = ("run", "process")


_COUNTERS = {
    "tributary_actor_trajectories": ("trajectories", "handed to reward workers"),
    "tributary_actor_tokens": ("tokens", "sampled, stops included"),
    "tributary_actor_engine_seconds": ("s", "inside of the engine's steps"),
    "tributary_reward_strings": ("strings", "asked for, those found in the cache included"),
    "tributary_reward_failed_strings": ("strings", "set aside because they could not be scored"),
    "tributary_reward_cache_hits": ("strings", "found in the cache"),
    "tributary_learner_steps": ("steps", "optimiser steps done, skipped ones included"),
    "tributary_learner_skipped_steps": ("steps", "without a finite loss or gradient"),
    "tributary_learner_wait_seconds": ("s", "spent waiting for data"),
}
_GAUGES = {
    "tributary_actor_served_version": ("versions", "number of the adapter that new requests get"),
    "tributary_actor_canary_difference_nats": (
        "nats",
        "largest difference between engine and learner on a canary so far",
    ),
    "tributary_actor_waiting": ("0 or 1", "whether it waits for an adapter or for reward workers"),
    "tributary_reward_function_seconds": ("s", "mean time of the task's functions for one string"),
    "tributary_learner_loss": ("nats^2", "of the newest step; sft: nats"),
    "tributary_learner_grad_norm": ("1", "L2 norm before clipping"),
    "tributary_learner_learning_rate": ("1", "of the newest step"),
    "tributary_learner_reward_temperature": ("1", "T of R^(1/T)"),
    "tributary_learner_var_u": ("nats^2", "variance of log Z's estimates over prefixes: 0 at the target"),
    "tributary_learner_log_z_nats": ("nats", "mean estimate of log Z"),
    "tributary_learner_log_reward_nats": ("nats", "mean log R of the batch's fresh on-policy rows"),
    "tributary_learner_staleness_versions": ("versions", "mean staleness of the batch's fresh rows"),
    "tributary_learner_published_version": ("versions", "number of the newest adapter"),
    "tributary_learner_step_seconds": ("s", "of the newest step, waiting included"),
}
_OF_RUN = {
    "tributary_buffer_trajectories": ("trajectories", "in the buffer now", ()),
    "tributary_buffer_capacity": ("trajectories", "that it can hold", ()),
    "tributary_buffer_fresh_waiting": ("trajectories", "arrivals that no draw has taken as fresh yet", ()),
    "tributary_buffer_priority_ess": ("trajectories", "effective number that draws by weight spread over", ()),
    "tributary_buffer_age_seconds": ("s", "mean time since the last arrival of what is in it", ()),
    "tributary_buffer_draws_per_insert": ("1", "what buffer.samples_per_insert governs", ()),
    "tributary_buffer_inserted": ("trajectories", "new ones taken in", ()),
    "tributary_buffer_drawn": ("trajectories", "rows drawn", ()),
    "tributary_buffer_evicted": ("trajectories", "taken out for others", ()),
    "tributary_buffer_duplicates": ("trajectories", "that were there already", ()),
    "tributary_buffer_stale": ("trajectories", "taken out at a draw because too old", ()),
    "tributary_buffer_quarantined": ("trajectories", "set aside as unreadable, unscorable or not finite", ()),
    "tributary_buffer_refused": ("trajectories", "that did not come in, by reason", ("reason",)),
    "tributary_run_members": ("processes", "that can work now", ("role",)),
    "tributary_run_members_wanted": ("processes", "that are to be there", ("role",)),
    "tributary_run_waits": ("sentences", "named waits and troubles now", ()),
}

METRICS: dict[str, Metric] = (
    {name: Metric("counter", *about) for name, about in _COUNTERS.items()}
    | {name: Metric("gauge", *about) for name, about in _GAUGES.items()}
    | {name: Metric("gauge", unit, what, ("run", *tags)) for name, (unit, what, tags) in _OF_RUN.items()}
    | {"tributary_run_restarts": Metric("counter", "starts", "processes that died and came again", ("run", "role"))}
)
"""Every name that a run exports."""


class Meter:
    """One process's metrics. Methods take what the process says of itself; figures that are not finite are left out."""

    def __init__(self, run: str, process: str) -> None:
        self._tags = {"run": run, "process": process}
        self._run = {"run": run}
        self._made: dict[str, Any] = {}
        self._totals: dict[str, float] = {}
        self._newest: Mapping[str, Any] | None = None

    def actor(self, status: Mapping[str, Any]) -> None:
        """RolloutActor.status"""
        self._total("tributary_actor_trajectories", status["trajectories"])
        self._total("tributary_actor_tokens", status["tokens"])
        self._total("tributary_actor_engine_seconds", status["engine_s"])
        self._set("tributary_actor_served_version", status["version"])
        self._set("tributary_actor_canary_difference_nats", status["canary_difference_max"])
        self._set("tributary_actor_waiting", float(status["waiting_for"] is not None))

    def reward(self, status: Mapping[str, Any]) -> None:
        """RewardWorker.status"""
        self._total("tributary_reward_strings", status["strings"])
        self._total("tributary_reward_failed_strings", status["failed"])
        self._total("tributary_reward_cache_hits", round(status["cache_hits"] * status["strings"]))
        self._set("tributary_reward_function_seconds", status["function_s"])

    def learner(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """New rows of Learner.drain"""
        for row in rows:
            self._add("tributary_learner_steps", 1.0)
            self._add("tributary_learner_wait_seconds", row["wait_s"])
        self._newest = rows[-1] if rows else self._newest
        if self._newest is None:
            return
        self._total("tributary_learner_skipped_steps", self._newest["skipped_steps"])
        for name, field in _LEARNER.items():  # again and again: Ray forgets a gauge 20 s after it was set
            self._set(name, self._newest[field])

    def buffer(self, stats: BufferStats) -> None:
        """ReplayBuffer.stats, by the driver"""
        for name, value in {
            "trajectories": stats.size,
            "capacity": stats.capacity,
            "fresh_waiting": stats.fresh_waiting,
            "priority_ess": stats.priority_ess,
            "age_seconds": stats.mean_age_s or 0.0,
            "draws_per_insert": stats.draws_per_insert,
            "inserted": stats.inserted,
            "drawn": stats.drawn,
            "evicted": stats.evicted,
            "duplicates": stats.duplicates,
            "stale": stats.expired,
            "quarantined": stats.quarantined,
        }.items():
            self._set(f"tributary_buffer_{name}", value, self._run)
        for reason, number in stats.refused.items():
            self._set("tributary_buffer_refused", number, self._run | {"reason": reason})

    def members(self, ready: Mapping[str, int], wanted: Mapping[str, int], waits: int) -> None:
        """Role -> processes, by the driver"""
        for name, counts in (("tributary_run_members", ready), ("tributary_run_members_wanted", wanted)):
            for role, number in counts.items():
                self._set(name, number, self._run | {"role": role})
        self._set("tributary_run_waits", waits, self._run)

    def restart(self, role: str) -> None:
        """A process of this role died and comes again, by the driver"""
        self._add("tributary_run_restarts", 1.0, self._run | {"role": role})

    def _total(self, name: str, total: float) -> None:
        """A counter whose total is known; it starts anew where that does."""
        before = self._totals.get(name, 0.0)
        self._totals[name] = total
        self._add(name, total - before if total >= before else total)

    def _add(self, name: str, amount: float, tags: Mapping[str, str] | None = None) -> None:
        if amount > 0:
            self._metric(name).inc(amount, tags=dict(tags or self._tags))

    def _set(self, name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
        if math.isfinite(value):
            self._metric(name).set(float(value), tags=dict(tags or self._tags))

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            known = METRICS[name]
            kind = Counter if known.kind == "counter" else Gauge
            self._made[name] = kind(name, description=f"{known.meaning} [{known.unit}]", tag_keys=known.tags)
        return self._made[name]


_LEARNER = {
    "tributary_learner_loss": "loss",
    "tributary_learner_grad_norm": "grad_norm",
    "tributary_learner_learning_rate": "learning_rate",
    "tributary_learner_reward_temperature": "reward_temperature",
    "tributary_learner_var_u": "var_u",
    "tributary_learner_log_z_nats": "log_z",
    "tributary_learner_log_reward_nats": "log_reward",
    "tributary_learner_staleness_versions": "staleness_mean",
    "tributary_learner_published_version": "version",
    "tributary_learner_step_seconds": "step_s",
}
