"""A view of single steps for people: some rows of a batch in full, and figures of its fresh rows together.

Made at most once in `every_s`, of a bounded number of rows and tokens, so its cost is negligible however short the
steps are. Plain lists and dicts: they go into the run's history (deploy/telemetry/recorder.py).

Shapes   B trajectories, T response tokens, K reward terms.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from buffer.drawn_rows import Drawn
from learner.diagnostics import posterior_figures, select_rows
from learner.figures import staleness
from learner.objectives.balance import Estimates
from learner.policy import PrefixLogProbs

SAMPLE_INTERVAL_S = 1.0
MAX_ROWS = 16
MAX_TOKENS = 4096
"""Token limit of all sampled rows together; at least one row is sampled."""
MAX_PROMPTS = 16
DIGITS = 4
"""Decimal places of nats."""
GOOD = ("valid", "accuracy", "correct")
"""Labels that tell if a string is good, the first that a task has."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class StepSampler:
    """Samples steps, at most one every `every_s` seconds of `clock`."""

    def __init__(self, every_s: float = SAMPLE_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._due = float("-inf")
        self._rng = np.random.default_rng(0)

    def sample(
        self,
        rows: Sequence[Drawn],
        log_reward: Tensor,
        estimates: Estimates,
        log_probs: PrefixLogProbs,
        newest_version: int,
    ) -> dict[str, Any] | None:
        """Rows and figures of this step before its update; None if the last sample is too recent.

        rows [B] of the batch, their untempered `log_reward` [B, T+1], and `estimates` and `log_probs` of the current
        policy.
        """
        if self._clock() < self._due:
            return None
        self._due = self._clock() + self._every_s
        return {
            "rows": [_row(rows[i], i, log_reward, estimates, log_probs, newest_version) for i in self._chosen(rows)],
            **_fresh_figures(rows, log_reward, estimates),
        }

    def _chosen(self, rows: Sequence[Drawn]) -> list[int]:
        """Indexes of the rows to sample: fresh ones first, as many as the bounds allow; else a random choice, since
        rows come in the order in which they were finished, the short ones first."""
        order = sorted(self._rng.permutation(len(rows)).tolist(), key=lambda i: not rows[i].fresh)[:MAX_ROWS]
        tokens = np.cumsum([len(rows[i].trajectory.token_ids) for i in order])
        return order[: max(int((tokens <= MAX_TOKENS).sum()), 1)]


def _row(
    row: Drawn, i: int, log_reward: Tensor, estimates: Estimates, log_probs: PrefixLogProbs, newest_version: int
) -> dict[str, Any]:
    """One row in plain values; None at prefixes where the policy may not stop, and where a tool wrote the token."""
    trajectory = row.trajectory
    n, is_action = len(trajectory.token_ids), trajectory.is_action
    is_terminal = estimates.is_terminal[i, : n + 1]
    has_terms = is_terminal.clone()
    has_terms[n] = True
    return {
        "prompt_id": trajectory.prompt_id,
        "token_ids": trajectory.token_ids.tolist(),
        "is_action": is_action.tolist(),
        "behaviour": row.behaviour,
        "fresh": row.fresh,
        "policy_version": row.policy_version,
        "staleness": staleness(row, newest_version),
        "content_id": row.content_id,
        "log_q": round(float(estimates.log_q[i]), DIGITS),
        "log_reward": round(float(log_reward[i, n]), DIGITS),
        "log_pf": _plain(log_probs.log_pf[i, :n], is_action),
        "log_pterm": _plain(log_probs.log_pterm[i, : n + 1], is_terminal),
        "u": _plain(estimates.u[i, : n + 1], is_terminal),
        "log_reward_prefix": _plain(log_reward[i, : n + 1], has_terms),
        "terms": {
            name: _plain(values, has_terms if len(values) == n + 1 else [True])
            for name, values in zip(trajectory.reward_terms, trajectory.log_reward, strict=True)
        },
        "labels": dict(trajectory.labels),
        "scoring_s": round(trajectory.scoring_s, 6),
    }


def _plain(values: Any, is_defined: Any) -> list[float | None]:
    """Values [n] rounded; None where `is_defined` [n] is false or the value is not finite."""
    numbers = _array(values).astype(np.float64)
    shown = _array(is_defined).astype(np.bool_) & np.isfinite(numbers)
    return [
        number if is_shown else None
        for number, is_shown in zip(np.round(numbers, DIGITS).tolist(), shown.tolist(), strict=True)
    ]


def _array(values: Any) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _fresh_figures(rows: Sequence[Drawn], log_reward: Tensor, estimates: Estimates) -> dict[str, Any]:
    """Figures of the fresh rows together; a figure without rows is omitted."""
    fresh = [row for row in rows if row.fresh]
    on_policy = [i for i, row in enumerate(rows) if row.fresh and row.behaviour == "on_policy"]
    figures: dict[str, Any] = {}
    if fresh:
        mix = Counter(row.behaviour for row in fresh)
        figures["behaviours"] = {name: count / len(fresh) for name, count in sorted(mix.items())}
    if on_policy:
        log_rewards = [float(log_reward[i, len(rows[i].trajectory.token_ids)]) for i in on_policy]
        figures |= {
            "quantiles": np.round(np.quantile(_finite(log_rewards) or [np.nan], QUANTILES), DIGITS).tolist(),
            "diversity": len({rows[i].content_id for i in on_policy}) / len(on_policy),
            **_diversity_good([rows[i] for i in on_policy], log_rewards),
            "prompts": _log_z_bounds(rows, on_policy, estimates),
        }
    return figures


def _diversity_good(rows: Sequence[Drawn], log_rewards: Sequence[float]) -> dict[str, float]:
    """The share of pairs of good rows of one prompt that differ: unlike a share of different strings it does not
    depend on how many rows are good. Good rows have a label of GOOD above 0; without such a label, log R at or above
    the median. Empty where there is no pair."""
    label = next((name for name in GOOD if any(name in row.trajectory.labels for row in rows)), None)
    median = np.median(_finite(log_rewards) or [np.nan])
    counts: dict[str, Counter[str]] = {}
    for row, value in zip(rows, log_rewards, strict=True):
        if (row.trajectory.labels.get(label, 0.0) > 0) if label else value >= median:
            counts.setdefault(row.trajectory.prompt_id, Counter())[row.content_id] += 1
    pairs = sum(math.comb(of_prompt.total(), 2) for of_prompt in counts.values())
    equal = sum(math.comb(n, 2) for of_prompt in counts.values() for n in of_prompt.values())
    return {"diversity_good": 1.0 - equal / pairs} if pairs else {}


def _finite(values: Sequence[float]) -> list[float]:
    """The finite ones: a broken batch, whose rewards may be anything, is sampled too."""
    return [value for value in values if np.isfinite(value)]


def _log_z_bounds(rows: Sequence[Drawn], on_policy: Sequence[int], estimates: Estimates) -> dict[str, dict[str, float]]:
    """Prompt id -> its bounds of log Z, nats, for prompts with two on-policy rows or more."""
    rows_of: dict[str, list[int]] = {}
    for i in on_policy:
        rows_of.setdefault(rows[i].trajectory.prompt_id, []).append(i)
    comparable = [(prompt_id, indexes) for prompt_id, indexes in rows_of.items() if len(indexes) > 1]
    return {
        prompt_id: {
            name: round(value, DIGITS)
            for name, value in posterior_figures(select_rows(estimates, indexes)).items()
            if name in ("log_z_lower", "log_z_mean")
        }
        for prompt_id, indexes in comparable[:MAX_PROMPTS]
    }
