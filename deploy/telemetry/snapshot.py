"""How a run stands at one moment, as plain values: what the recorder keeps and the dashboard reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from buffer.store.statistics import BufferStats

HISTOGRAMS = ("reward_histogram", "staleness_histogram", "priority_histogram")
TOTALS = {
    "arrival_rate": "arrivals",
    "insert_rate": "inserted",
    "duplicate_rate": "duplicates",
    "sample_rate": "drawn",
    "evict_rate": "evicted",
    "expired_rate": "expired",
    "update_rate": "updated",
}
"""Rate -> the total that it is a difference of."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment."""

    row: Mapping[str, Any]
    """Newest figures of the learner, as in `Learner.step`; empty before the first step."""
    buffer: BufferStats | None
    actors: Sequence[Mapping[str, Any]]
    """As in `RolloutActor.status`."""
    phase: str
    """What is going on, in words."""
    elapsed_s: float
    waits: Sequence[str] = ()
    """The named waits of this moment."""
    rewards: Sequence[Mapping[str, Any]] = ()
    """As in `RewardWorker.status`."""


def as_row(snapshot: Snapshot) -> dict[str, Any]:
    """What the history keeps of a snapshot, without histograms: about 1 kB for a few actors."""
    return {
        "phase": snapshot.phase,
        "elapsed_s": snapshot.elapsed_s,
        "buffer": buffer_totals(snapshot.buffer),
        "actors": [dict(actor) for actor in snapshot.actors],
        "rewards": [dict(worker) for worker in snapshot.rewards],
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


def rates(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> dict[str, float | None]:
    """Per second, from two readings of a buffer's totals; None where a total fell, as after a clear."""
    return {name: _rate(before.get(total), now.get(total), seconds) for name, total in TOTALS.items()}


def _rate(before: float | None, now: float | None, seconds: float) -> float | None:
    if before is None or now is None or now < before or seconds <= 0:
        return None
    return (now - before) / seconds
