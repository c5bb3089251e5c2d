"""The policy and the reward that the strings of one buffer belong to; stored with them, and in an archive of them.

Strings of another tokenizer are other strings, strings of other limits are not the policy's, and log R of another
target would give one string two rewards.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from buffer.types import PolicySpec, Trajectory


class StoredPolicy(BaseModel):
    """What makes strings and their rewards comparable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    base_model: str
    """Fingerprint of the base model's files: another one gives other rewards."""
    vocabulary: str
    """sha256 (hex) of the tokenizer's tokens and their ids."""
    rows: int | None
    """Tokens that the model can produce: ids are below it. None where its configuration does not say."""
    stop_token_id: int
    min_actions: int
    max_actions: int
    allowed_token_ids: tuple[int, ...] | None
    forbidden_token_ids: tuple[int, ...] = ()
    task: str
    task_options: str
    """sha256 (hex) of the options, as they are written in the recipe."""
    length_penalty: float
    """nats per token"""
    reward_adapter: str | None
    """Fingerprint of the adapter that scores."""
    max_tokens: int | None = None
    """Longest prompt with its response, a tool's text included. Not compared: a resumed run may change it."""

    @classmethod
    def from_run(
        cls,
        spec: PolicySpec,
        base_model: str,
        vocabulary: Mapping[str, int],
        rows: int | None,
        task: str,
        task_options: Mapping[str, object],
        length_penalty: float,
        reward_adapter: str | None,
        max_tokens: int | None = None,
    ) -> "StoredPolicy":
        """The policy of a run; `vocabulary` maps token -> id, `base_model` and `reward_adapter` are fingerprints."""
        tokens = json.dumps(sorted(vocabulary.items(), key=lambda pair: pair[1])).encode()
        options = json.dumps(task_options, sort_keys=True, default=str).encode()
        return cls(
            base_model=base_model,
            vocabulary=hashlib.sha256(tokens).hexdigest(),
            rows=rows,
            stop_token_id=spec.stop_token_id,
            min_actions=spec.min_actions,
            max_actions=spec.max_actions,
            allowed_token_ids=spec.allowed_token_ids,
            forbidden_token_ids=spec.forbidden_token_ids,
            task=task,
            task_options=hashlib.sha256(options).hexdigest(),
            length_penalty=length_penalty,
            reward_adapter=reward_adapter,
            max_tokens=max_tokens,
        )

    def differences(self, other: "StoredPolicy") -> list[str]:
        """One phrase for each field that differs: its name, this value and the other's."""
        ours, theirs = (policy.model_dump(exclude={"max_tokens"}) for policy in (self, other))
        return [
            f"{name}: {_shown(ours[name])} here, {_shown(theirs[name])} there"
            for name in ours
            if ours[name] != theirs[name]
        ]

    def problem(self, trajectory: Trajectory) -> str | None:
        """Why the policy cannot have written this string, or None."""
        tokens, actions = trajectory.token_ids, trajectory.token_ids[trajectory.is_action]
        for name, ids in (("prompt", trajectory.prompt_token_ids), ("response", tokens)):
            if self.rows is not None and len(ids) and ids.max() >= self.rows:  # codec.py refuses ids below 0
                return f"a token of its {name} is outside of the model's {self.rows} tokens"
        if self.max_tokens is not None and len(trajectory.prompt_token_ids) + len(tokens) > self.max_tokens:
            return f"it has {len(trajectory.prompt_token_ids) + len(tokens)} tokens; the model reads {self.max_tokens}"
        if not self.min_actions <= len(actions) <= self.max_actions:
            return f"it has {len(actions)} actions; the policy makes {self.min_actions} to {self.max_actions}"
        if self.allowed_token_ids is not None and not np.isin(actions, self.allowed_token_ids).all():
            return "it has an action that is not in policy.allowed_tokens"
        if np.isin(actions, self.forbidden_token_ids).any():
            return "it has an action that is in policy.forbidden_tokens"
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
