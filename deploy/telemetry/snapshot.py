"""The state of a run at one time, as plain values: the recorder keeps it and the dashboard reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from buffer.store.statistics import BufferStats
from deploy.telemetry.figures import rates_in

HISTOGRAMS = ("reward_histogram", "staleness_histogram", "priority_histogram")
TOTALS = rates_in("buffer")
"""Rate of the buffer -> the total that it is a difference of."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one time."""

    row: Mapping[str, Any]
    """Newest figures of the learner, as in `Learner.step`; empty before the first step."""
    buffer: BufferStats | None
    actors: Sequence[Mapping[str, Any]]
    """As in `RolloutActor.status`."""
    phase: str
    """The run's current activity, in words."""
    elapsed_s: float
    waits: Sequence[str] = ()
    """Named waits at this time."""
    rewards: Sequence[Mapping[str, Any]] = ()
    """As in `RewardWorker.status`."""
    actor_names: Sequence[str] = ()
    """The actors of the run, whether they answer or not."""


def is_member(actor: str, row: Mapping[str, Any]) -> bool:
    """True unless a row of `as_row` lists the actors of the run without this one, which was removed or given up."""
    return not row.get("actor_names") or actor in row["actor_names"]


def as_row(snapshot: Snapshot) -> dict[str, Any]:
    """The part of a snapshot that the history keeps, without histograms: about 1 kB for a few actors."""
    return {
        "phase": snapshot.phase,
        "elapsed_s": snapshot.elapsed_s,
        "buffer": buffer_totals(snapshot.buffer),
        "actors": [dict(actor) for actor in snapshot.actors],
        "rewards": [dict(worker) for worker in snapshot.rewards],
        "actor_names": list(snapshot.actor_names),
        "waits": list(snapshot.waits),
    }


def buffer_totals(stats: BufferStats | None, histograms: bool = False) -> dict[str, Any] | None:
    """A buffer's statistics by name, histograms as pairs [lower edge, number]; None before there are any."""
    if stats is None:
        return None
    values = asdict(stats)
    for name in HISTOGRAMS:
        pairs: Mapping[float, int] = values.pop(name)
        if histograms:
            values[name] = [[edge, number] for edge, number in pairs.items()]
    return values | {
        "fill": stats.size / stats.capacity,
        "draws_per_insert": stats.draws_per_insert,
        "unique_ratio": stats.unique_ratio,
    }


def actor_values(status: Mapping[str, Any]) -> dict[str, float]:
    """Field of an actor's figure -> value, of `RolloutActor.status`."""
    return {
        "trajectories": status["trajectories"],
        "tokens": status["tokens"],
        "engine_s": status["engine_s"],
        "version": status["version"],
        "versions_skipped": status.get("versions_skipped", 0),
        "canary_difference": status["canary_difference_max"],
        "canaries_exceeded": status.get("canaries_exceeded", 0),
        "waits": float(status.get("waiting_for") is not None),
    }


def worker_values(status: Mapping[str, Any]) -> dict[str, float]:
    """Field of a reward worker's figure -> value, of `RewardWorker.status`."""
    return {
        "strings": status["strings"],
        "cached_strings": round(status["cache_hits"] * status["strings"]),
        "cache_hits": status["cache_hits"],
        "failed": status["failed"],
        "function_s": status["function_s"],
        "slowest_s": status["slowest_s"],
    }


def rates(room: str, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> dict[str, float | None]:
    """Rates per second of a room's totals, from two readings; None where a total fell, as after a restart."""
    return {name: _rate(before.get(total), after.get(total), seconds) for name, total in rates_in(room).items()}


def _rate(before: float | None, after: float | None, seconds: float) -> float | None:
    if before is None or after is None or after < before or seconds <= 0:
        return None
    return (after - before) / seconds
