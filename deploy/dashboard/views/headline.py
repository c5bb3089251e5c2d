"""The headline figures of a run: means pooled over many samples, with their intervals, next to the evaluation's.

One step has a handful of fresh on-policy samples: a success rate of 3.5 % reads 0 % at most steps. So the samples of
many steps are pooled, each step with the number of its samples as its weight.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.data.series import Floats
from deploy.dashboard.views.result import evaluated
from deploy.telemetry.figures import describe
from rewards.config import tells_quality
from rewards.judging.binomial import binomial_share
from rewards.judging.bootstrap import Interval

POOLED_SAMPLES = 256
"""Newest samples in a mean, and first ones in the mean that it is compared with; whole steps."""
NORMAL_95 = 1.96
QUALITY = (".valid", ".accuracy", ".correct")
"""Labels that tell how good a string is; of a task with others the first one counts."""


TERMS = "learner.terms."
"""Without labels, the first term of the reward that tells quality counts, such as a reward function of one's own."""


def headline(run: RunReader, newest_result: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The tiles of the overview, as in docs/dashboard-api.md; those without a reading are left out, but the first."""
    counts = run.learner.counts()
    labels = sorted(name for name in counts if name.startswith("learner.labels."))
    labels = labels or sorted(
        name for name in counts if name.startswith(TERMS) and tells_quality(name.removeprefix(TERMS))
    )
    quality = next((name for name in labels if name.endswith(QUALITY)), labels[0] if labels else "")
    diversity = (
        ("learner.diversity_good", "higher") if "learner.diversity_good" in counts else ("learner.diversity", None)
    )
    tiles = [
        ("var_u", "learner.var_u", "lower"),
        ("valid", quality, "higher"),
        ("log_reward", "learner.log_reward", "higher"),
        ("diversity", *diversity),
        ("length", "learner.length", None),
        ("cut", "learner.cut", None),
        ("entropy", "learner.entropy", None),
    ]  # fmt: skip
    return [
        _tile(run, newest_result, name, curve, better)
        for name, curve, better in tiles
        if curve in counts or name == "var_u"
    ]


def pooled(values: Floats, weights: Floats, is_share: bool) -> tuple[Interval, int]:
    """The mean of all samples, its 95 % interval, and their number.

    values [S]: mean of each step's samples; weights [S]: their number. The interval of a share is Clopper's and
    Pearson's for as many independent samples: too wide for values between 0 and 1, too narrow where samples of one
    prompt agree. Any other interval is from the differences between steps. NaN without samples, and for the ends with
    one step.
    """
    samples = int(weights.sum())
    if not samples:
        return Interval(math.nan, math.nan, math.nan), 0
    mean = float((values * weights).sum() / weights.sum())
    if is_share:
        ends = binomial_share(round(mean * samples), samples)
        return Interval(mean, ends.low, ends.high), samples
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan), samples
    spread = math.sqrt(float(((weights * (values - mean)) ** 2).sum()) * len(values) / (len(values) - 1))
    half = NORMAL_95 * spread / float(weights.sum())
    return Interval(mean, mean - half, mean + half), samples


def _tile(
    run: RunReader, newest_result: Mapping[str, Any] | None, name: str, curve: str, better: str | None
) -> dict[str, Any]:
    values, weights = _readings(run, curve)
    figure = describe(curve)
    is_share = figure.unit == "share" or (not figure.unit and _are_shares(values, curve))
    most = min(POOLED_SAMPLES, float(weights.sum()) / 2)  # so that the first and the newest ones are different ones
    now, samples = pooled(*_newest(values, weights, most), is_share)
    before, _ = pooled(*_newest(values[::-1], weights[::-1], most), is_share)
    return {
        "name": name,
        "title": figure.title,
        "unit": "share" if is_share else figure.unit,
        "value": _or_none(now.value),
        "low": _or_none(now.low),
        "high": _or_none(now.high),
        "samples": samples,
        "before": _or_none(before.value),
        "evaluated": evaluated(newest_result, _metric(curve)),
        "better": better,
        "curve": curve,
    }


def _metric(curve: str) -> str:
    """The name that an evaluation has for a curve."""
    if curve.startswith(TERMS):
        return f"mean_{curve.removeprefix(TERMS)}"
    return curve.removeprefix("learner.").removeprefix("labels.")


def newest_samples(run: RunReader, curve: str) -> tuple[Floats, Floats]:
    """(values, numbers of samples) of the newest steps with POOLED_SAMPLES fresh on-policy samples."""
    return _newest(*_readings(run, curve), POOLED_SAMPLES)


def _readings(run: RunReader, curve: str) -> tuple[Floats, Floats]:
    """The finite values of a figure, and the numbers of samples they are of; oldest first."""
    values, weights = run.learner.weighted(curve, "learner.on_policy")
    kept = np.isfinite(values) & (weights > 0)
    return values[kept], weights[kept]


def _newest(values: Floats, weights: Floats, samples: float) -> tuple[Floats, Floats]:
    """The newest steps, as many as have so many samples."""
    enough = np.flatnonzero(weights[::-1].cumsum() >= samples)
    steps = int(enough[0]) + 1 if len(enough) else len(weights)
    return values[len(values) - steps :], weights[len(weights) - steps :]


def _are_shares(values: Floats, curve: str) -> bool:
    """Labels and terms whose means all lie between 0 and 1 are shares."""
    return (
        (".labels." in curve or curve.startswith(TERMS))
        and bool(len(values))
        and bool(((values >= 0) & (values <= 1)).all())
    )


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
