"""Figures of one step: the batch before its update, and the exact distance to a target whose strings are listed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from buffer.drawn_rows import Drawn
from buffer.types import Trajectory
from learner.batch import Batch, collate
from learner.config import LearnerConfig
from learner.diagnostics import exact_figures, posterior_figures, select_rows, var_u
from learner.given_strings import log_q_of_batch
from learner.objectives.balance import Estimates, first_terminal, value_at
from learner.policy import LoraPolicy

Figures = dict[str, Any]


def staleness(row: Drawn, newest_version: int) -> int:
    """Versions since the row was sampled; 0 for a given string, which no policy sampled."""
    return newest_version - row.policy_version if row.trajectory.adapter_digest else 0


def sampled_step(rows: Sequence[Drawn], newest_version: int, steps_done: int, publish_every: int) -> float:
    """Mean step after which the policies of the fresh on-policy `rows` were published; NaN where there are none.

    Labels, rewards and other figures of these strings describe the policies of that step, not of the newest one.
    """
    ages = [staleness(row, newest_version) for row in rows if row.fresh and row.behaviour == "on_policy"]
    published = steps_done - steps_done % publish_every
    return float(np.mean([max(published - age * publish_every, 0) for age in ages])) if ages else float("nan")


def batch_figures(rows: Sequence[Drawn], batch: Batch, estimates: Estimates, newest_version: int) -> Figures:
    """Figures of the B `rows` under the policy that `estimates` are of; NaN where no row has the figure."""
    fresh = [i for i, row in enumerate(rows) if row.fresh]
    on_policy = [i for i in fresh if rows[i].behaviour == "on_policy"]
    ages = [staleness(rows[i], newest_version) for i in fresh if rows[i].trajectory.adapter_digest]
    trajectories = [rows[i].trajectory for i in on_policy]
    log_rewards = batch.log_reward_of_strings[on_policy].tolist()
    on_policy_estimates = select_rows(estimates, on_policy)
    return {
        "var_u": var_u(on_policy_estimates),
        **posterior_figures(on_policy_estimates),
        "log_z": float(value_at(estimates.u.detach(), first_terminal(estimates.is_terminal)).mean()),
        "log_reward": float(np.mean(log_rewards)) if log_rewards else float("nan"),
        "staleness_mean": float(np.mean(ages)) if ages else float("nan"),
        "staleness_max": max(ages, default=float("nan")),
        "fresh": len(fresh),
        "on_policy": len(on_policy),
        "labels": _means(trajectory.labels for trajectory in trajectories),
        "terms": _means(
            dict(zip(trajectory.reward_terms, trajectory.log_reward[:, -1].tolist(), strict=True))
            for trajectory in trajectories
        ),
        **completion_figures(trajectories, batch, on_policy, on_policy_estimates.log_q),
    }


def _means(named: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Name -> mean of the finite values of those that have the name."""
    values: dict[str, list[float]] = {}
    for of_one in named:
        for name, value in of_one.items():
            values.setdefault(name, []).append(value if math.isfinite(value) else math.nan)
    return {
        name: float(np.nanmean(of_name)) if np.isfinite(of_name).any() else math.nan for name, of_name in values.items()
    }


def completion_figures(
    trajectories: Sequence[Trajectory], batch: Batch, numbers: Sequence[int], log_q: Tensor
) -> Figures:
    """Length and end of N trajectories, the rows `numbers` of `batch`, and their `log_q` [N]; NaN without any.

    length    mean number of response tokens
    stopped   share that the policy ended itself
    cut       share that policy.max_actions ended: 1 - stopped. Both are of the strings that could have stopped before
    entropy   mean of -log q per decision, nats: each action, and the stop where it was the policy's choice
    """
    if not trajectories:
        return dict.fromkeys(("length", "stopped", "cut", "entropy"), float("nan"))
    lengths = [len(trajectory.token_ids) for trajectory in trajectories]
    chose_stop = [bool(batch.may_stop[i, n]) for i, n in zip(numbers, lengths, strict=True)]
    could_stop = [
        bool((trajectory.is_state[:n] & ~batch.too_short[i, :n].numpy()).any())
        for trajectory, i, n in zip(trajectories, numbers, lengths, strict=True)
    ]
    ends = [chosen for chosen, could in zip(chose_stop, could_stop, strict=True) if chosen or could]
    stopped = float(np.mean(ends)) if ends else float("nan")
    decisions = sum(int(trajectory.is_action.sum()) for trajectory in trajectories) + sum(chose_stop)
    return {
        "length": float(np.mean(lengths)),
        "stopped": stopped,
        "cut": 1.0 - stopped,
        "entropy": -float(log_q.sum()) / decisions if decisions else float("nan"),
    }


class TargetDistance:
    """The exact distance of q to the target, for tasks that list the strings which carry the target's mass."""

    def __init__(
        self, policy: LoraPolicy, support: Sequence[Trajectory], config: LearnerConfig, weights: Mapping[str, float]
    ) -> None:
        """`support` is these strings, scored; empty where a task lists none. `weights` are those of reward terms."""
        self._policy = policy
        self._every = config.advanced.diagnose_every
        self._batch = collate(support, policy.spec, config.max_tokens, weights) if support else None

    def compute(self, step: int, temperature: float) -> Figures:
        """Total variation and KL to R^(1/T); NaN at steps between two readings and where no strings are listed."""
        if self._batch is None or step % self._every:
            return {"total_variation": float("nan"), "kl": float("nan")}
        log_q = log_q_of_batch(self._policy, self._batch)
        return exact_figures(log_q, self._batch.log_reward_of_strings / temperature, self._batch.prompt)
