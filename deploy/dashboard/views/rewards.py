"""The rewards page: distribution of log R, its terms, its course along a string, and the best strings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.buffer import buffer_view
from deploy.dashboard.views.samples import newest
from deploy.dashboard.views.status import newest_snapshot

MAX_SAMPLES = 2000
MAX_TOP = 20
WITHIN_NATS = 1.0
MAX_POSITIONS = 512
Sample = Mapping[str, Any]


def reward_view(run: RunReader, prompt: str | None) -> dict[str, Any]:
    """The response of `/api/rewards`, as in docs/dashboard-api.md."""
    samples = newest(run, MAX_SAMPLES, prompt)
    snapshot = newest_snapshot(run)
    totals = snapshot.get("buffer") or {}
    temperature = run.learner.newest("learner.reward_temperature")
    scoring_s = [sample["scoring_s"] for sample in samples if sample["scoring_s"] is not None]
    return {
        "run": run.id,
        "temperature": temperature[0] if temperature else None,
        "histogram": {"of": "buffer", "unit": "nats", "bins": buffer_view(run, {})["reward_histogram"]},
        "terms": _terms(samples),
        "per_prefix": _per_prefix(samples),
        "top": _top(samples),
        "distinct": {
            "strings": totals.get("inserted"),
            "of_samples": totals.get("arrivals"),
            "modes": _modes(samples),
            "within_nats": WITHIN_NATS,
        },
        "workers": [
            {**worker, "string_s": float(np.mean(scoring_s)) if scoring_s else None}
            for worker in snapshot.get("rewards", ())
        ],
    }


def by_position(rows: Sequence[Sequence[float | None]]) -> dict[str, list[Any]]:
    """For lists of different lengths: the number, mean and 10 % and 90 % quantiles of the values at each position."""
    columns: dict[str, list[Any]] = {"position": [], "n": [], "mean": [], "q10": [], "q90": []}
    for position in range(min(max(map(len, rows), default=0), MAX_POSITIONS)):
        values = [value for row in rows if len(row) > position and (value := row[position]) is not None]
        low, high = np.quantile(values, (0.1, 0.9)).tolist() if values else (None, None)
        mean = float(np.mean(values)) if values else None
        for name, value in zip(columns, (position, len(values), mean, low, high), strict=True):
            columns[name].append(value)
    return columns


def _terms(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Mean of each term over complete strings, and the share of the variance of log R that it explains.

    The share is cov(term, log R) / var(log R): the shares of terms that add up to log R add up to 1.
    """
    names = list(dict.fromkeys(name for sample in samples for name in sample["terms"]))
    rows = []
    for name in names:
        pairs = [
            (values[-1], sample["log_reward"])
            for sample in samples
            if (values := sample["terms"].get(name)) and values[-1] is not None and sample["log_reward"] is not None
        ]
        if not pairs:
            continue
        term, total = np.array(pairs).T
        spread = float(total.var())
        share = float(np.cov(term, total, bias=True)[0, 1]) / spread if spread > 0 else None
        note = name.startswith("_")
        rows.append({"name": name, "mean": float(term.mean()), "share": None if note else share, "note": note})
    return rows


def _per_prefix(samples: Sequence[Sample]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for sample in samples for name in sample["terms"]))
    of_terms = {name: [s["terms"][name] for s in samples if name in s["terms"]] for name in names}
    return {
        "from_samples": len(samples),
        **by_position([sample["log_reward_prefix"] for sample in samples]),
        "terms": {name: by_position(rows)["mean"] for name, rows in of_terms.items()},
    }


def _top(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The distinct strings of highest log R, each with its newest sample."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in samples:  # newest first
        if sample["log_reward"] is None:
            continue
        key = sample["prompt_id"], sample["text"]
        if key in best:
            best[key]["times"] += 1
            continue
        best[key] = {name: sample[name] for name in ("id", "prompt_id", "text", "log_reward", "log_q", "step")}
        best[key]["times"] = 1
    return sorted(best.values(), key=lambda one: -float(one["log_reward"]))[:MAX_TOP]


def _modes(samples: Sequence[Sample]) -> int:
    """The number of distinct strings within WITHIN_NATS of the best log R of their prompt."""
    best: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample["log_reward"] is not None:
            best.setdefault(sample["prompt_id"], {})[sample["text"]] = sample["log_reward"]
    return sum(value >= max(rewards.values()) - WITHIN_NATS for rewards in best.values() for value in rewards.values())
