"""The posterior page: log q against log R, estimates of log Z, and the estimate u of log Z at each prefix."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.rewards import by_position
from deploy.dashboard.views.samples import newest
from rewards.judging.posterior import fit_line

MAX_SAMPLES = 2000
MAX_LINES = 64
MIN_FIT_SAMPLES = 8
"""Fewest on-policy samples for a fit."""
GLOSSARY = {
    "log R": "the log of the reward of a string, in nats; the target is proportional to R^(1/T), T the temperature",
    "log Z": "the log of the sum of R^(1/T) over all strings: it normalises the target",
    "u": "the estimate of log Z that a prefix makes; all agree at the optimum",
    "⊤": "the stop sign: the action that ends a string",
}
"""Terms of the posterior page and of the plots; static/lib/glossary.js holds the same words."""
EXPLANATION = (
    "u_i is the estimate of log Z that the prefix of length i makes: log R / T of stopping there, minus log q of "
    "reaching it and stopping. At the optimum every u_i equals log Z: all lines are flat and coincide."
)


def posterior_view(run: RunReader, prompt: str | None, steps: int, log_z_exact: float | None) -> dict[str, Any]:
    """The response of `/api/posterior`, as in docs/dashboard-api.md."""
    samples = [
        sample
        for sample in newest(run, MAX_SAMPLES, prompt, steps)
        if sample["log_q"] is not None and sample["log_reward"] is not None
    ]
    temperature = (run.learner.newest("learner.reward_temperature") or [1.0])[0]
    names = list(dict.fromkeys(sample["prompt_id"] for sample in samples))
    on_policy = [sample for sample in samples if sample["behaviour"] == "on_policy"]
    lower, mean = _newest(run, "learner.log_z_lower"), _newest(run, "learner.log_z_mean")
    return {
        "run": run.id,
        "temperature": temperature,
        "from_step": min((sample["step"] for sample in samples), default=None),
        "to_step": max((sample["step"] for sample in samples), default=None),
        "prompts": [
            {
                "id": name,
                "samples": sum(sample["prompt_id"] == name for sample in samples),
                "curves": len(run.curve(f"prompt.{name}.log_z_mean").y) > 0,
            }
            for name in names
        ],
        "scatter": {
            "log_reward": [sample["log_reward"] / temperature for sample in samples],
            "log_q": [sample["log_q"] for sample in samples],
            "prompt": [names.index(sample["prompt_id"]) for sample in samples],
            "id": [sample["id"] for sample in samples],
            "on_policy": [sample["behaviour"] == "on_policy" for sample in samples],
        },
        "fit": fit(on_policy, temperature),
        "log_z_bounds": {"lower": lower, "mean": mean, "exact": log_z_exact},
        "ess": _newest(run, "learner.ess"),
        "kl_estimate": _newest(run, "learner.kl_estimate"),
        "total_variation": _newest(run, "learner.total_variation"),
        "kl": _newest(run, "learner.kl"),
        "u": {
            **by_position([sample["u"] for sample in on_policy]),
            "lines": [{"id": sample["id"], "u": sample["u"]} for sample in on_policy[:MAX_LINES]],
        },
        "explanation": EXPLANATION,
    }


def fit(samples: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, float | None] | None:
    """log q against log R / T by least squares; None with too few samples.

    The mean of each prompt is subtracted first, since every prompt has its own log Z. Slope and correlation are None
    where log R does not vary, or varies through one sample only.
    """
    if len(samples) < MIN_FIT_SAMPLES:
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
    """Median of the newest ten finite readings, since a single batch is noisy."""
    values = run.curve(name).y
    finite = values[np.isfinite(values)][-10:]
    return float(np.median(finite)) if len(finite) else None
