"""Saves a learner's parts in a checkpoint and restores them; learner/checkpoint.py is the format and the folder."""

import threading
from collections import deque
from typing import Any

import torch

from buffer.errors import TributaryError
from learner.adapter import adapter_files, adapter_tensors, digest, load_adapter
from learner.checkpoint import Checkpoints, Numbers, State
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from learner.priority import Priorities

MAX_ROWS = 10_000
"""Rows of figures that a checkpoint holds at most, the newest ones."""
_ADAPTER, _GENERATOR = "adapter.", "torch_rng"


class Checkpointer:
    """The adapter, the optimiser, torch's generator, the priorities' maximum and the figures not saved yet."""

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        policy: LoraPolicy,
        optimiser: Optimiser,
        priorities: Priorities,
        is_leader: bool,
    ) -> None:
        """Every rank restores; only the leader saves. Without `checkpoints` both do nothing."""
        self._checkpoints = checkpoints
        self._policy = policy
        self._optimiser = optimiser
        self._priorities = priorities
        self._saves = is_leader and checkpoints is not None
        self._saved_step = -1
        self._rows: deque[dict[str, Any]] = deque(maxlen=MAX_ROWS)
        self._delivered_step = 0
        self._lock = threading.Lock()  # rows are added by the loop, and delivered by another thread

    def restore(self) -> Numbers | None:
        """Load the newest checkpoint into the learner's parts; return its numbers, or None if there is no checkpoint.

        TributaryError if its adapter is not the one whose digest it holds.
        """
        state = self._checkpoints.newest() if self._checkpoints else None
        if state is None:
            return None
        numbers, tensors = state.numbers, state.tensors
        load_adapter(self._policy, {k.removeprefix(_ADAPTER): t for k, t in tensors.items() if k.startswith(_ADAPTER)})
        if digest(adapter_files(self._policy)) != numbers.adapter_sha256:
            raise TributaryError(
                f"the checkpoint of step {numbers.step} holds an adapter whose sha256 is not the recorded one, "
                f"{numbers.adapter_sha256[:12]}... Remove the file to continue from the previous checkpoint."
            )
        self._optimiser.load(tensors)
        torch.set_rng_state(tensors[_GENERATOR])
        self._priorities.largest_log_rewards = dict(numbers.largest_log_rewards)
        self._saved_step = numbers.step
        return numbers

    def add_row(self, figures: dict[str, Any]) -> None:
        """Keep a step's figures for the next checkpoints: the driver may die before it has written them."""
        if self._saves:
            with self._lock:
                self._rows.append(figures)

    def delivered(self, step: int) -> None:
        """The driver was sent the rows up to `step`. By now it has written those of the delivery before."""
        with self._lock:
            while self._rows and self._rows[0]["step"] <= self._delivered_step:
                self._rows.popleft()
        self._delivered_step = step

    def save(self, step: int, version: int, skipped_steps: int) -> None:
        """Write a checkpoint of the state after `step`, unless that step has one."""
        if self._checkpoints is None or not self._saves or self._saved_step == step:
            return
        with self._lock:
            rows = list(self._rows)
        numbers = Numbers(
            step=step,
            version=version,
            skipped_steps=skipped_steps,
            largest_log_rewards=self._priorities.largest_log_rewards,
            adapter_sha256=digest(adapter_files(self._policy)),
            rows=rows,
        )
        adapter = {f"{_ADAPTER}{name}": tensor for name, tensor in adapter_tensors(self._policy).items()}
        generator = {_GENERATOR: torch.get_rng_state()}
        self._checkpoints.save(State(numbers, adapter | self._optimiser.tensors() | generator))
        self._saved_step = step
