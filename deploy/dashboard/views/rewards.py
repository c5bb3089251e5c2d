"""The rewards page: what strings are worth, which terms say so, and where along a string it is decided."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.buffer import buffer_view
from deploy.dashboard.views.samples import newest

MOST_SAMPLES = 2000
TOP = 20
WITHIN_NATS = 1.0
MOST_POSITIONS = 512
Sample = Mapping[str, Any]


def reward_view(run: RunReader, prompt: str | None) -> dict[str, Any]:
    """As `/api/rewards` in docs/dashboard-api.md."""
    noted = newest(run, MOST_SAMPLES, prompt)
    moment = (run.meta.get("now") or {}).get("moment", {})
    totals = moment.get("buffer") or {}
    temperature = run.learner.newest("learner.reward_temperature")
    scoring = [sample["scoring_s"] for sample in noted if sample["scoring_s"] is not None]
    return {
        "run": run.id,
        "temperature": temperature[0] if temperature else None,
        "histogram": {"of": "buffer", "unit": "nats", "bins": buffer_view(run, {})["reward_histogram"]},
        "terms": _terms(noted),
        "per_prefix": _per_prefix(noted),
        "top": _top(noted),
        "distinct": {
            "strings": totals.get("inserted"),
            "of_samples": totals.get("arrivals"),
            "modes": _modes(noted),
            "within_nats": WITHIN_NATS,
        },
        "workers": [
            {**worker, "string_s": float(np.mean(scoring)) if scoring else None} for worker in moment.get("rewards", ())
        ],
    }


def by_position(rows: Sequence[Sequence[float | None]]) -> dict[str, list[Any]]:
    """Of lists of different lengths: at each position how many there are, their mean and outer tenths."""
    found: dict[str, list[Any]] = {"position": [], "n": [], "mean": [], "q10": [], "q90": []}
    for position in range(min(max(map(len, rows), default=0), MOST_POSITIONS)):
        there = [row[position] for row in rows if len(row) > position]
        values = [value for value in there if value is not None]
        low, high = np.quantile(values, (0.1, 0.9)).tolist() if values else (None, None)
        mean = float(np.mean(values)) if values else None
        for name, value in zip(found, (position, len(values), mean, low, high), strict=True):
            found[name].append(value)
    return found


def _terms(noted: Sequence[Sample]) -> list[dict[str, Any]]:
    """Mean of each term of whole strings, and the share of the spread of log R that goes with it.

    The share is cov(term, log R) / var(log R): shares of terms that add up to log R add up to 1.
    """
    names = list(dict.fromkeys(name for sample in noted for name in sample["terms"]))
    listed = []
    for name in names:
        pairs = [
            (values[-1], sample["log_reward"])
            for sample in noted
            if (values := sample["terms"].get(name)) and values[-1] is not None and sample["log_reward"] is not None
        ]
        if not pairs:
            continue
        term, total = np.array(pairs).T
        spread = float(total.var())
        share = float(np.cov(term, total, bias=True)[0, 1]) / spread if spread > 0 else None
        note = name.startswith("_")
        listed.append({"name": name, "mean": float(term.mean()), "share": None if note else share, "note": note})
    return listed


def _per_prefix(noted: Sequence[Sample]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for sample in noted for name in sample["terms"]))
    of_terms = {name: [s["terms"][name] for s in noted if name in s["terms"]] for name in names}
    return {
        "from_samples": len(noted),
        **by_position([sample["log_reward_prefix"] for sample in noted]),
        "terms": {name: by_position(rows)["mean"] for name, rows in of_terms.items()},
    }


def _top(noted: Sequence[Sample]) -> list[dict[str, Any]]:
    """The best different strings, the newest reading of each."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in noted:  # newest first
        if sample["log_reward"] is None:
            continue
        key = sample["prompt_id"], sample["text"]
        if key in best:
            best[key]["times"] += 1
            continue
        best[key] = {name: sample[name] for name in ("id", "prompt_id", "text", "log_reward", "log_q", "step")}
        best[key]["times"] = 1
    return sorted(best.values(), key=lambda one: -float(one["log_reward"]))[:TOP]


def _modes(noted: Sequence[Sample]) -> int:
    """Different strings within WITHIN_NATS of the best of their prompt."""
    best: dict[str, dict[str, float]] = {}
    for sample in noted:
        if sample["log_reward"] is not None:
            best.setdefault(sample["prompt_id"], {})[sample["text"]] = sample["log_reward"]
    return sum(value >= max(of.values()) - WITHIN_NATS for of in best.values() for value in of.values())
