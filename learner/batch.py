"""Trajectories to tensors: one batch, the prefix trees of its passes, and masks that say what each position means.

Shapes   B trajectories, T response tokens of the longest, N nodes of a prefix tree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from buffer.types import IntArray, PolicySpec, Trajectory, prompt_digest, total_log_reward
from learner.objectives.balance import last_terminal, value_at
from lm.packing import Cost, token_budget
from lm.prefix_tree import PrefixTree, build_prefix_tree


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a batch, which the model computes in one pass."""

    rows: Tensor
    """[b] int64: their numbers in the batch."""
    tree: PrefixTree
    """The prefix tree of these rows; `nodes` is [b, T+1]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of the policy and the objective. Padding: tokens 0, is_action false, is_terminal false, log_reward 0."""

    parts: tuple[Part, ...]
    """Passes; every row is in exactly one."""
    token_ids: Tensor
    """[B, T] int64"""
    is_action: Tensor
    """[B, T] bool"""
    is_terminal: Tensor
    """[B, T+1] bool: prefixes at which the policy may stop and that have a reward, so that they have a u."""
    may_stop: Tensor
    """[B, T+1] bool: like `is_terminal`, but false where stopping is forced: there log q(stop) is 0 by definition, not
    an output of the model."""
    too_short: Tensor
    """[B, T+1] bool: states before `min_actions`, where the stop token is masked."""
    log_reward: Tensor
    """[B, T+1] float32, nats, untempered."""
    sampled_log_q: Tensor
    """[B] float32: log q(Z ⊤ | X) under the version that sampled the string, nats."""
    prompt: Tensor
    """[B] int64: a digest of the prompt's id, the same on every rank."""

    @property
    def tree_nodes(self) -> int:
        """Number of positions that the model computes."""
        return sum(len(part.tree.tokens) for part in self.parts)

    @property
    def log_reward_of_strings(self) -> Tensor:
        """[B] float32: log R(Z ⊤) of whole strings, nats, untempered."""
        return value_at(self.log_reward, last_terminal(self.is_terminal | self.too_short))


def collate(
    trajectories: Sequence[Trajectory],
    spec: PolicySpec,
    max_tokens: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Batch:
    """Lay out B scored trajectories. The same function serves fresh, replayed and demonstration data.

    `weights` are those of reward terms, 1 by default. A pass has at most `max_tokens` tokens, prompts included (a
    single longer row has a pass of its own); 0 puts all rows into one pass.
    """
    rows, width = len(trajectories), max(len(t.token_ids) for t in trajectories)
    token_ids = np.zeros((rows, width), dtype=np.int64)
    is_action = np.zeros((rows, width), dtype=np.bool_)
    is_state = np.zeros((rows, width + 1), dtype=np.bool_)
    has_reward = np.zeros((rows, width + 1), dtype=np.bool_)
    log_reward = np.zeros((rows, width + 1), dtype=np.float32)
    for row, trajectory in enumerate(trajectories):
        n = len(trajectory.token_ids)
        token_ids[row, :n] = trajectory.token_ids
        is_action[row, :n] = trajectory.is_action
        is_state[row, : n + 1] = trajectory.is_state
        has_reward[row, : n + 1] = trajectory.has_reward
        total = total_log_reward(trajectory, {} if weights is None else weights)
        log_reward[row, n + 1 - len(total) : n + 1] = total
    actions_before = np.pad(is_action.cumsum(1), ((0, 0), (1, 0)))  # [B, T+1] actions in z_1:i
    too_short = is_state & (actions_before < spec.min_actions)
    is_terminal = has_reward & ~too_short
    may_stop = is_terminal & (actions_before < spec.max_actions)
    read = [_read(t, bool(may_stop[row, len(t.token_ids)])) for row, t in enumerate(trajectories)]
    return Batch(
        parts=tuple(
            Part(
                rows=torch.tensor(chosen, dtype=torch.int64),
                tree=build_prefix_tree(
                    [trajectories[k].prompt_token_ids for k in chosen], [read[k] for k in chosen], width
                ),
            )
            for chosen in _passes(trajectories, max_tokens)
        ),
        token_ids=torch.from_numpy(token_ids),
        is_action=torch.from_numpy(is_action),
        is_terminal=torch.from_numpy(is_terminal),
        may_stop=torch.from_numpy(may_stop),
        too_short=torch.from_numpy(too_short),
        log_reward=torch.from_numpy(log_reward),
        sampled_log_q=torch.tensor([float(t.log_pf.sum()) + float(t.log_pterm[-1]) for t in trajectories]),
        prompt=torch.tensor([_prompt_number(t) for t in trajectories], dtype=torch.int64),
    )


def _prompt_number(trajectory: Trajectory) -> int:
    return int.from_bytes(prompt_digest(trajectory.prompt_id), signed=True)


def _read(trajectory: Trajectory, may_stop: bool) -> IntArray:
    """The tokens whose outputs are read: none from the last action on if stopping is forced after it."""
    if may_stop or not trajectory.is_action.any():
        return trajectory.token_ids
    return trajectory.token_ids[: int(np.flatnonzero(trajectory.is_action)[-1])]


def _passes(trajectories: Sequence[Trajectory], max_tokens: int) -> Iterator[list[int]]:
    """Row numbers of each pass, rows of one prompt next to each other."""
    order = sorted(range(len(trajectories)), key=lambda k: trajectories[k].prompt_id)
    rows = ((k, trajectories[k]) for k in order)
    return token_budget(
        ((k, Cost(row.prompt_id, len(row.prompt_token_ids), len(row.token_ids))) for k, row in rows), max_tokens
    )
