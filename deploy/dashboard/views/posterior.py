"""The posterior page: does q follow R, and do all prefixes agree on log Z."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.rewards import by_position
from deploy.dashboard.views.samples import newest
from rewards.judging.posterior import fit_line

MOST_SAMPLES = 2000
LINES = 64
FEWEST = 8
"""On-policy samples below which nothing is fitted."""
EXPLANATION = (
    "u_i is what the prefix of length i says log Z is: log R of stopping there, minus log q of getting there and "
    "stopping. At the optimum every u_i is log Z: all lines lie flat on one another."
)


def posterior_view(run: RunReader, prompt: str | None, steps: int, log_z_exact: float | None) -> dict[str, Any]:
    """As `/api/posterior` in docs/dashboard-api.md."""
    noted = [
        sample
        for sample in newest(run, MOST_SAMPLES, prompt, steps)
        if sample["log_q"] is not None and sample["log_reward"] is not None
    ]
    temperature = (run.learner.newest("learner.reward_temperature") or [1.0])[0]
    names = list(dict.fromkeys(sample["prompt_id"] for sample in noted))
    on_policy = [sample for sample in noted if sample["behaviour"] == "on_policy"]
    lower, mean = _newest(run, "learner.log_z_lower"), _newest(run, "learner.log_z_mean")
    return {
        "run": run.id,
        "temperature": temperature,
        "from_step": min((sample["step"] for sample in noted), default=None),
        "to_step": max((sample["step"] for sample in noted), default=None),
        "prompts": [
            {
                "id": name,
                "samples": sum(sample["prompt_id"] == name for sample in noted),
                "curves": len(run.curve(f"prompt.{name}.log_z_mean").y) > 0,
            }
            for name in names
        ],
        "scatter": {
            "log_reward": [sample["log_reward"] / temperature for sample in noted],
            "log_q": [sample["log_q"] for sample in noted],
            "prompt": [names.index(sample["prompt_id"]) for sample in noted],
            "id": [sample["id"] for sample in noted],
            "on_policy": [sample["behaviour"] == "on_policy" for sample in noted],
        },
        "fit": fit(on_policy, temperature),
        "log_z_bounds": {"lower": lower, "mean": mean, "exact": log_z_exact},
        "ess": _newest(run, "learner.ess"),
        "kl_estimate": _newest(run, "learner.kl_estimate"),
        "total_variation": _newest(run, "learner.total_variation"),
        "kl": _newest(run, "learner.kl"),
        "u": {
            **by_position([sample["u"] for sample in on_policy]),
            "lines": [{"id": sample["id"], "u": sample["u"]} for sample in on_policy[:LINES]],
        },
        "explanation": EXPLANATION,
    }


def fit(samples: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, float | None] | None:
    """log q against log R / T by least squares; None with too few samples.

    Over several prompts each one's mean is taken out first: every prompt has a log Z of its own. Slope and correlation
    are None where log R does not vary, or where one sample alone makes it vary.
    """
    if len(samples) < FEWEST:
        return None
    means: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        pair = sample["log_reward"] / temperature, sample["log_q"]
        means.setdefault(sample["prompt_id"], []).append(pair)
    centred = np.concatenate([np.array(pairs) - np.mean(pairs, axis=0) for pairs in means.values()])
    slope, correlation = (float(value) for value in fit_line(*centred.T))
    log_z = [sample["u_last"] for sample in samples if sample["u_last"] is not None]
    return {
        "slope": slope if math.isfinite(slope) else None,
        "correlation": correlation if math.isfinite(correlation) else None,
        "log_z": float(np.mean(log_z)) if log_z else None,
        "n": len(samples),
    }


def _newest(run: RunReader, name: str) -> float | None:
    """Median of the newest ten finite readings: one batch is noise."""
    values = run.curve(name).y
    finite = values[np.isfinite(values)][-10:]
    return float(np.median(finite)) if len(finite) else None
