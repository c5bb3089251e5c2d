"""Publishes the policy's adapter: a new version number, a digest, and a canary for whoever serves it."""

from collections.abc import Callable
from dataclasses import replace

import torch

from buffer.replay import ReplayBuffer
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory, given_trajectory
from learner.adapter import adapter_files, adapter_version
from learner.policy import LoraPolicy

FIRST_CANARY_TOKENS = 32
"""Tokens of a prompt that the first canary consists of, at most. A single token's rounding would be too rough."""
Publish = Callable[[AdapterVersion, AdapterFiles], None]


class AdapterPublisher:
    """Numbers the adapters of one run; every rank counts, only the leader publishes."""

    def __init__(
        self,
        policy: LoraPolicy,
        buffer: ReplayBuffer,
        publish: Publish,
        canary_tolerance: float,
        is_leader: bool,
        restored_version: int = -1,
    ) -> None:
        """`restored_version` is the newest version of the checkpoint that the learner continues from."""
        self._policy = policy
        self._buffer = buffer
        self._publish = publish
        self._canary_tolerance = canary_tolerance
        self._is_leader = is_leader
        if is_leader:
            buffer.lease.take()
        # versions published after the checkpoint were sampled from: no number is ever used twice
        self.version = max(buffer.newest_version(), restored_version)
        self.published_step = -1
        """The step of the newest version; -1 before the first."""

    def publish_first(self, step: int, prompt: Prompt) -> None:
        """Publish before any string was learned from: the canary is text of `prompt` itself."""
        tokens = prompt.token_ids[: FIRST_CANARY_TOKENS + 1]
        self.publish(step, given_trajectory(replace(prompt, token_ids=tokens[:1]), tokens[1:], "canary"))

    def publish(self, step: int, example: Trajectory) -> None:
        """Publish the adapter after `step`; the canary is the log-probabilities of `example`'s tokens."""
        self.version += 1
        self.published_step = step
        if self._is_leader:
            # engines compute LoRA in their own number format: in 16 bits half the bytes say the same
            files = adapter_files(self._policy, getattr(torch, self._policy.spec.dtype))
            version = adapter_version(self._policy, files, self.version, step, example, self._canary_tolerance)
            self._buffer.note_version(self.version)
            self._publish(version, files)
