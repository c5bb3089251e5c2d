"""The buffer page: what is in it, what comes and goes, who is held back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from buffer.store.binary_layout import BINS_PER_NAT
from deploy.dashboard.data.run_reader import RunReader
from deploy.telemetry.snapshot import HISTOGRAMS, TOTALS

MOST_BINS = 64
NOTES = 50
"""Of the quarantine."""


def buffer_view(run: RunReader, limits: Mapping[str, float | None]) -> dict[str, Any]:
    """As `/api/buffer` in docs/dashboard-api.md."""
    reading = run.meta.get("now") or {}
    live = run.live
    found = reading.get("buffer")
    at, source, error = reading.get("at"), "history", None
    if live is not None:
        error, source = live.error, "redis"
        if live.newest is not None:
            at, found = live.newest
    return {
        "run": run.id,
        "at": at,
        "source": source,
        "error": error,
        "now": None if found is None else _now(found),
        "rates": {name: _newest(run, f"buffer.{name}") for name in TOTALS},
        "pace": pace_of(found, limits),
        "refused": dict(found["refused"]) if found else {},
        "priority_histogram": _priorities(found["priority_histogram"]) if found else [],
        "reward_histogram": _bins(found["reward_histogram"], 1 / BINS_PER_NAT) if found else [],
        "staleness_histogram": _staleness(found["staleness_histogram"]) if found else [],
        "age": {"mean_s": found["mean_age_s"], "oldest_s": found["oldest_age_s"]} if found else None,
        "quarantine": live.quarantine[:NOTES] if live else _noted(run),
    }


def pace_of(found: Mapping[str, Any] | None, limits: Mapping[str, float | None]) -> dict[str, Any] | None:
    """Samples per insert against its band (buffer.store.item_store.RateLimiter); None without a limit."""
    wanted, band = limits.get("samples_per_insert") or 0.0, limits.get("samples_per_insert_band") or 0.0
    if not found or not wanted:
        return None
    start = wanted * (limits.get("min_size_to_sample") or 0.0)
    ahead = found["drawn"] - wanted * found["arrivals"]
    limited = "draws" if ahead >= band - start else "inserts" if -ahead >= band + start else None
    said = {
        "draws": "The learner has drawn as often as it may: it waits for new trajectories.",
        "inserts": "As many trajectories came in as may: reward workers wait for the learner to draw.",
        None: "Both sides are within the band: nobody waits for the other.",
    }[limited]
    return {"samples_per_insert": wanted, "band": band, "ahead_rows": ahead, "limited": limited, "sentence": said}


def _now(found: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in found.items() if name not in (*HISTOGRAMS, "refused")}
    size = found["size"]
    return plain | {"ess_share": found["priority_ess"] / size if size else None}


def _newest(run: RunReader, name: str) -> float | None:
    values = [value for value in run.moments.newest(name, 5) if np.isfinite(value)]
    return sum(values) / len(values) if values else None


def _noted(run: RunReader) -> list[dict[str, Any]]:
    rows = run.query(f"SELECT at, data FROM events WHERE kind = 'quarantine' ORDER BY id DESC LIMIT {NOTES}")
    return [{"id": None, "reason": row["data"], "at": row["at"]} for row in rows]


def _bins(pairs: Sequence[Sequence[float]], width: float) -> list[dict[str, float]]:
    """Neighbours are joined until there are at most MOST_BINS."""
    if not pairs:
        return []
    low, high = pairs[0][0], pairs[-1][0] + width
    joined = width * max(1, int(np.ceil((high - low) / width / MOST_BINS)))
    counts: dict[int, float] = {}
    for edge, number in pairs:
        place = int((edge - low) / joined + 1e-9)
        counts[place] = counts.get(place, 0) + number
    return [{"low": low + k * joined, "high": low + (k + 1) * joined, "n": n} for k, n in sorted(counts.items())]


def _priorities(pairs: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """By draw weight, whose levels are an eighth of an octave apart: joined evenly in the logarithm."""
    step = 0.125
    bins = _bins([[float(np.log2(weight)), number] for weight, number in pairs], step)
    shift = step / 2  # a level stands for the weights around it
    return [{"low": float(2 ** (b["low"] - shift)), "high": float(2 ** (b["high"] - shift)), "n": b["n"]} for b in bins]


def _staleness(pairs: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Bins 0, 1, 2 to 3, 4 to 7 ..."""
    return [{"low": low, "high": max(2 * low, 1), "n": number} for low, number in pairs]
