"""The posterior page: log q against log R, estimates of log Z, and the estimate u of log Z at each prefix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.curves import newest_value
from deploy.dashboard.views.headline import newest_samples, pooled
from deploy.dashboard.views.rewards import by_position
from deploy.dashboard.views.samples import newest
from deploy.telemetry.figures import describe
from rewards.judging.posterior import fit_line

MAX_SAMPLES = 2000
MAX_LINES = 64
MIN_FIT_SAMPLES = 8
"""Fewest on-policy samples for a fit."""
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
    lower, mean = _mean(run, "learner.log_z_lower"), _mean(run, "learner.log_z_mean")
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
        "slope": _current(run, "learner.slope"),
        "correlation": _current(run, "learner.correlation"),
        "ess": _mean(run, "learner.ess"),
        "kl_estimate": _mean(run, "learner.kl_estimate"),
        "total_variation": _current(run, "learner.total_variation")["last"],
        "kl": _current(run, "learner.kl")["last"],
        "u": {
            **by_position([sample["u"] for sample in on_policy]),
            "lines": [{"id": sample["id"], "u": sample["u"]} for sample in on_policy[:MAX_LINES]],
        },
        "explanation": EXPLANATION,
    }


def fit(samples: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, float | None] | None:
    """log q against log R / T by least squares; None with too few samples.

    Slope and correlation are means over the prompts that have them, as in the learner's figures and in an evaluation:
    every prompt has its own log Z. None where log R does not vary, or varies through one sample only.
    """
    if len(samples) < MIN_FIT_SAMPLES:
        return None
    pairs: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        pairs.setdefault(sample["prompt_id"], []).append((sample["log_reward"] / temperature, sample["log_q"]))
    lines = np.array([fit_line(*np.array(of_prompt).T) for of_prompt in pairs.values() if len(of_prompt) > 1])
    slope, correlation = (values[np.isfinite(values)] for values in lines.reshape(-1, 2).T)
    log_z = [sample["u_last"] for sample in samples if sample["u_last"] is not None]
    return {
        "slope": float(slope.mean()) if len(slope) else None,
        "correlation": float(correlation.mean()) if len(correlation) else None,
        "log_z": float(np.mean(log_z)) if log_z else None,
        "n": len(samples),
    }


def _current(run: RunReader, name: str) -> dict[str, Any]:
    """A figure as its plot has it: the newest value, and the numbers of points with one and of all."""
    return newest_value(run.curve(name).y, describe(name).sparse)


def _mean(run: RunReader, name: str) -> float | None:
    """Mean over the newest samples, since a single batch is noisy; None where it is not defined at present."""
    if _current(run, name)["last"] is None:
        return None
    return pooled(*newest_samples(run, name), is_share=False)[0].value
