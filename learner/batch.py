"""Trajectories to tensors: one batch, its prefix tree, and what each position means.

Shapes   B trajectories, T response tokens of the longest, N nodes of the prefix tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from buffer.prefix_tree import PrefixTree, build_prefix_tree
from buffer.types import PolicySpec, Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """What the policy and the objective read. Padding: tokens 0, is_action false, counts false, log_reward 0."""

    tree: PrefixTree
    token_ids: Tensor
    """[B, T] int64"""
    is_action: Tensor
    """[B, T] bool"""
    counts: Tensor
    """[B, T+1] bool: prefixes at which the policy may stop, so that they have a u."""
    may_stop: Tensor
    """[B, T+1] bool: like `counts`, but false also where stopping is forced or not allowed yet: there log q(stop) is no
    output of the model."""
    too_short: Tensor
    """[B, T+1] bool: states before `min_actions`, where the stop token is masked."""
    log_reward: Tensor
    """[B, T+1] float32, nats, untempered."""
    group: Tensor
    """[B] int64: the prompt's number within the batch."""


def collate(trajectories: Sequence[Trajectory], spec: PolicySpec) -> Batch:
    """Lay out B scored trajectories. The same function serves fresh, replayed and demonstration data."""
    rows, width = len(trajectories), max(len(t.token_ids) for t in trajectories)
    token_ids = np.zeros((rows, width), dtype=np.int64)
    is_action = np.zeros((rows, width), dtype=np.bool_)
    is_state = np.zeros((rows, width + 1), dtype=np.bool_)
    log_reward = np.zeros((rows, width + 1), dtype=np.float32)
    for row, trajectory in enumerate(trajectories):
        n = len(trajectory.token_ids)
        token_ids[row, :n] = trajectory.token_ids
        is_action[row, :n] = trajectory.is_action
        is_state[row, : n + 1] = trajectory.is_state
        log_reward[row, : n + 1] = trajectory.log_reward.sum(0)
    actions_before = np.pad(is_action.cumsum(1), ((0, 0), (1, 0)))  # [B, T+1] actions in z_1:i
    too_short = is_state & (actions_before < spec.min_actions)
    counts = is_state & ~too_short
    prompts: dict[str, int] = {}
    group = [prompts.setdefault(t.prompt_id, len(prompts)) for t in trajectories]
    return Batch(
        tree=build_prefix_tree([t.prompt_token_ids for t in trajectories], [t.token_ids for t in trajectories]),
        token_ids=torch.from_numpy(token_ids),
        is_action=torch.from_numpy(is_action),
        counts=torch.from_numpy(counts),
        may_stop=torch.from_numpy(counts & (actions_before < spec.max_actions)),
        too_short=torch.from_numpy(too_short),
        log_reward=torch.from_numpy(log_reward),
        group=torch.tensor(group, dtype=torch.int64),
    )
