"""What a person may see of a step: some of its rows with all that is known of them, and what they say together.

Made at most once in `every_s`, of a bounded number of rows and tokens, so that it costs next to nothing however short
the steps are. Plain lists and dicts: what goes into the run's history (deploy/telemetry/recorder.py).

Shapes   B trajectories, T response tokens, K reward terms.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from buffer.replay import Drawn
from buffer.types import total_log_reward
from learner.diagnostics import posterior_figures, select
from learner.objectives.balance import Estimates
from learner.policy import PrefixLogProbs

EVERY_S = 1.0
MOST_ROWS = 16
MOST_TOKENS = 4096
"""Of all noted rows together; at least one row is noted."""
MOST_PROMPTS = 16
DIGITS = 4
"""Behind the point, of nats."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class StepSampler:
    """Notes of steps, not more often than every `every_s` seconds of `clock`."""

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._due = float("-inf")

    def notes(
        self,
        rows: Sequence[Drawn],
        estimates: Estimates,
        scored: PrefixLogProbs,
        newest_version: int,
        weights: Mapping[str, float],
    ) -> dict[str, Any] | None:
        """Of this step, before its update; None where the last notes are too young.

        rows [B] of the batch; `estimates` and `scored` are of the policy now.
        """
        if self._clock() < self._due:
            return None
        self._due = self._clock() + self._every_s
        chosen = _chosen(rows)
        return {
            "rows": [_row(rows[i], i, estimates, scored, newest_version, weights) for i in chosen],
            **_figures(rows, estimates, weights),
        }


def _chosen(rows: Sequence[Drawn]) -> list[int]:
    """Indexes of the rows to note: fresh ones first, as many as the bounds allow."""
    order = sorted(range(len(rows)), key=lambda i: not rows[i].fresh)[:MOST_ROWS]
    tokens = np.cumsum([len(rows[i].trajectory.token_ids) for i in order])
    return order[: max(int((tokens <= MOST_TOKENS).sum()), 1)]


def _row(
    row: Drawn,
    i: int,
    estimates: Estimates,
    scored: PrefixLogProbs,
    newest_version: int,
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """One row in plain values; None at prefixes where the policy may not stop, and where a tool wrote the token."""
    trajectory = row.trajectory
    n, acts = len(trajectory.token_ids), trajectory.is_action
    is_terminal = estimates.is_terminal[i, : n + 1]
    total = total_log_reward(trajectory, weights)
    return {
        "prompt_id": trajectory.prompt_id,
        "token_ids": trajectory.token_ids.tolist(),
        "is_action": acts.tolist(),
        "behaviour": row.behaviour,
        "fresh": row.fresh,
        "policy_version": row.policy_version,
        "staleness": newest_version - row.policy_version if trajectory.adapter_digest else 0,
        "content_id": row.content_id,
        "log_q": round(float(estimates.log_q[i]), DIGITS),
        "log_reward": round(float(total[-1]), DIGITS),
        "log_pf": _plain(scored.log_pf[i, :n], acts),
        "log_pterm": _plain(scored.log_pterm[i, : n + 1], is_terminal),
        "u": _plain(estimates.u[i, : n + 1], is_terminal),
        "log_reward_prefix": _plain(total, trajectory.is_state),
        "terms": {
            name: _plain(values, trajectory.is_state)
            for name, values in zip(trajectory.reward_terms, trajectory.log_reward, strict=True)
        },
        "labels": dict(trajectory.labels),
        "scoring_s": round(trajectory.scoring_s, 6),
    }


def _plain(values: Any, known: Any) -> list[float | None]:
    """Rounded, None where `known` is false or the value is not finite."""
    shown, is_known = _array(values), _array(known).astype(np.bool_) & np.isfinite(_array(values))
    return [
        value if there else None
        for value, there in zip(np.round(shown.astype(np.float64), DIGITS).tolist(), is_known.tolist(), strict=True)
    ]


def _array(values: Any) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _figures(rows: Sequence[Drawn], estimates: Estimates, weights: Mapping[str, float]) -> dict[str, Any]:
    """What the fresh rows say together; nothing of what there are no rows for."""
    fresh = [row for row in rows if row.fresh]
    on_policy = [i for i, row in enumerate(rows) if row.fresh and row.behaviour == "on_policy"]
    found: dict[str, Any] = {}
    if fresh:
        mix = Counter(row.behaviour for row in fresh)
        found["behaviours"] = {name: count / len(fresh) for name, count in sorted(mix.items())}
    if on_policy:
        trajectories = [rows[i].trajectory for i in on_policy]
        log_rewards = _finite([float(total_log_reward(t, weights)[-1]) for t in trajectories])
        terms: dict[str, list[float]] = {}
        for trajectory in trajectories:
            for name, values in zip(trajectory.reward_terms, trajectory.log_reward, strict=True):
                terms.setdefault(name, []).append(float(values[-1]))
        found |= {
            "quantiles": np.round(np.quantile(log_rewards or [np.nan], QUANTILES), DIGITS).tolist(),
            "diversity": len({rows[i].content_id for i in on_policy}) / len(on_policy),
            "terms": {
                name: round(float(np.mean(_finite(values) or [np.nan])), DIGITS) for name, values in terms.items()
            },
            "prompts": _bounds(rows, on_policy, estimates),
        }
    return found


def _finite(values: Sequence[float]) -> list[float]:
    """Rewards of a broken batch may be anything; it is noted all the same."""
    return [value for value in values if np.isfinite(value)]


def _bounds(rows: Sequence[Drawn], on_policy: Sequence[int], estimates: Estimates) -> dict[str, dict[str, float]]:
    """Prompt id -> its bounds of log Z, nats, for prompts with two on-policy rows or more."""
    of: dict[str, list[int]] = {}
    for i in on_policy:
        of.setdefault(rows[i].trajectory.prompt_id, []).append(i)
    several = {name: some for name, some in of.items() if len(some) > 1}
    return {
        name: {
            key: round(value, DIGITS)
            for key, value in posterior_figures(select(estimates, some)).items()
            if key in ("log_z_lower", "log_z_mean")
        }
        for name, some in list(several.items())[:MOST_PROMPTS]
    }
