"""The buffer page: content, rates, histograms, and the side that samples per insert holds back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from buffer.store.binary_layout import BINS_PER_NAT
from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.status import newest_rate
from deploy.telemetry.snapshot import HISTOGRAMS, TOTALS

MAX_BINS = 64
MAX_QUARANTINED = 50


def buffer_view(run: RunReader, limits: Mapping[str, float | None]) -> dict[str, Any]:
    """The response of `/api/buffer`, as in docs/dashboard-api.md."""
    reading = run.meta.get("now") or {}
    live = run.redis_poller
    totals = reading.get("buffer")
    at, source, error = reading.get("at"), "history", None
    if live is not None:
        error, source = live.error, "redis"
        if live.newest is not None:
            at, totals = live.newest
    return {
        "run": run.id,
        "at": at,
        "source": source,
        "error": error,
        "now": None if totals is None else _now(totals),
        "rates": {name: newest_rate(run, f"buffer.{name}") for name in TOTALS},
        "pace": pace_of(totals, limits),
        "refused": dict(totals["refused"]) if totals else {},
        "priority_histogram": _priority_bins(totals["priority_histogram"]) if totals else [],
        "reward_histogram": _bins(totals["reward_histogram"], 1 / BINS_PER_NAT) if totals else [],
        "staleness_histogram": _staleness_bins(totals["staleness_histogram"]) if totals else [],
        "age": {"mean_s": totals["mean_age_s"], "oldest_s": totals["oldest_age_s"]} if totals else None,
        "quarantine": live.quarantine[:MAX_QUARANTINED] if live else _quarantine_events(run),
    }


def pace_of(totals: Mapping[str, Any] | None, limits: Mapping[str, float | None]) -> dict[str, Any] | None:
    """Samples per insert against its band (buffer.store.item_store.RateLimiter); None without a limit."""
    target, band = limits.get("samples_per_insert") or 0.0, limits.get("samples_per_insert_band") or 0.0
    if not totals or not target:
        return None
    start = target * (limits.get("min_size_to_sample") or 0.0)
    inserts = totals["arrivals"] + sum(totals.get("refused", {}).values())  # refused ones count, as in the store
    ahead = totals["drawn"] + totals.get("waived", 0) - target * inserts
    limited = "draws" if ahead >= band - start else "inserts" if -ahead >= band + start else None
    sentences = {
        "draws": "The learner has drawn as often as allowed: it waits for new trajectories.",
        "inserts": "Inserts are ahead of the learner: reward workers wait for it to draw.",
        None: "Both sides are within the band: neither waits for the other.",
    }
    return {
        "samples_per_insert": target,
        "band": band,
        "ahead_rows": ahead,
        "limited": limited,
        "sentence": sentences[limited],
    }


def _now(totals: Mapping[str, Any]) -> dict[str, Any]:
    scalars = {name: value for name, value in totals.items() if name not in (*HISTOGRAMS, "refused")}
    size = totals["size"]
    return scalars | {"ess_share": totals["priority_ess"] / size if size else None}


def _quarantine_events(run: RunReader) -> list[dict[str, Any]]:
    rows = run.query(f"SELECT at, data FROM events WHERE kind = 'quarantine' ORDER BY id DESC LIMIT {MAX_QUARANTINED}")
    return [{"id": None, "reason": row["data"], "at": row["at"]} for row in rows]


def _bins(pairs: Sequence[Sequence[float]], width: float) -> list[dict[str, float]]:
    """Histogram bins of [lower edge, number] pairs; neighbours are merged down to MAX_BINS."""
    if not pairs:
        return []
    low, high = pairs[0][0], pairs[-1][0] + width
    merged = width * max(1, int(np.ceil((high - low) / width / MAX_BINS)))
    counts: dict[int, float] = {}
    for edge, number in pairs:
        index = int((edge - low) / merged + 1e-9)
        counts[index] = counts.get(index, 0) + number
    return [{"low": low + k * merged, "high": low + (k + 1) * merged, "n": n} for k, n in sorted(counts.items())]


def _priority_bins(pairs: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Bins of draw weight, whose levels are an eighth of an octave apart: merged evenly in the logarithm."""
    step = 0.125
    bins = _bins([[float(np.log2(weight)), number] for weight, number in pairs], step)
    shift = step / 2  # a level is the centre of its bin
    return [{"low": float(2 ** (b["low"] - shift)), "high": float(2 ** (b["high"] - shift)), "n": b["n"]} for b in bins]


def _staleness_bins(pairs: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Bins of versions behind: 0, 1, 2 to 3, 4 to 7, ..."""
    return [{"low": low, "high": max(2 * low, 1), "n": number} for low, number in pairs]
