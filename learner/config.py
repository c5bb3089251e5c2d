"""The `[learner]` section of a recipe."""

import re
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from buffer.plugins import installed

PriorityKind: TypeAlias = Literal["residual", "reward", "recency"]

CANARY_TOLERANCE = {"float32": 5e-4, "float16": 0.02, "bfloat16": 0.15}
"""Dtype -> mean difference of a canary, nats, that rounding seldom exceeds. Measured: docs/decisions/0021-canary.md."""

OBJECTIVE_NAMES = ("subtb", "group_subtb", "tb", "db", "vargrad", "sft", "pg", "pg_kl")
"""Names of learner/objectives."""
ON_POLICY_OBJECTIVES = ("pg", "pg_kl")
"""Objectives that learn from the policy's own fresh strings alone."""
WHOLE_STRING_OBJECTIVES = ("vargrad", "sft", *ON_POLICY_OBJECTIVES)
"""Objectives that read the reward of whole strings alone, not those of their prefixes."""


class LearnerAdvanced(BaseModel):
    """Section `[learner.advanced]` of a recipe: settings that few runs change."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    subtb_lambda: float = Field(default=1.0, gt=0.0, le=10.0)
    """Weight lambda^(j-i-1) of a pair (i, j) of prefixes of one trajectory. Only the objective `subtb` reads it."""
    recency_half_life: float = Field(default=8.0, gt=0.0)
    """Adapter versions after which the priority `recency` of a row halves."""
    decay: Literal["linear", "cosine"] = "linear"
    """Shape of the learning rate's decay."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this L2 norm."""
    max_skipped_steps: int = Field(default=10, ge=1)
    """The run stops with an error after this many consecutive steps whose loss or gradient is not finite."""
    diagnose_every: int = Field(default=10, ge=1)
    """Steps between two measurements of the exact distance to the target, for tasks that list all their strings."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of checkpoints kept, the newest ones."""
    max_restarts: int = Field(default=5, ge=0)
    """Restarts of a learner whose process died, from its newest checkpoint, within an hour. Then the run ends."""
    wait_limit_s: float = Field(default=300.0, gt=0.0)
    """Longest wait for data before the run stops and reports the reason, s."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`) to run a learner process."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves for each learner process. It decides placement, not speed."""


class LearnerConfig(BaseModel):
    """Section `[learner]` of a recipe: the process that trains the adapter."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories per step."""
    fresh_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of a batch taken in order of arrival, as far as there are arrivals. The rest is replayed by priority. 1:
    nothing is replayed, and the learner waits for arrivals, unless `samples_per_insert` is set."""
    priority: PriorityKind | dict[PriorityKind, float] = "residual"
    """Priority of rows for replay (learner/priority.py). A table mixes kinds: {residual = 1.0, recency = 0.5}."""
    objective: str = "subtb"
    """Training objective: subtb, group_subtb, tb, db, vargrad, sft, pg or pg_kl, each a file of learner/objectives, or
    module:function of your own."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    decay_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Last share of the steps, over which the learning rate falls to 0. 0: it stays constant."""
    reward_temperature_start: float = Field(default=1.0, gt=0.0)
    """Temperature T of the target R^(1/T) at step 0."""
    reward_temperature_end: float = Field(default=1.0, gt=0.0)
    """Temperature T from step `reward_temperature_steps` on."""
    reward_temperature_steps: int = Field(default=0, ge=0)
    """Steps over which T changes linearly from start to end."""
    max_tokens: int = Field(default=8192, ge=0)
    """Tokens in one forward pass, prompts included; a larger batch is accumulated over several passes. Objectives that
    compare trajectories then compute each pass twice, once for the loss and once with gradient. 0: always one pass."""
    gradient_checkpointing: bool = False
    """Keep one activation per layer and recompute the others: slower, less memory."""
    canary_tolerance: float | None = Field(default=None, gt=0.0)
    """Mean difference between the actor's and the learner's log-probabilities of a canary's tokens, nats. It may be
    exceeded twice in a row; four times as much ends the run at once. By default the tolerance of model.dtype:
    0.0005 for float32, 0.02 for float16, 0.15 for bfloat16."""
    publish_every: int = Field(default=1, ge=1)
    """Steps between two published adapters."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two checkpoints. One more is written at the end."""
    device: str = "auto"
    """Device of the learner: auto, cpu or cuda. `auto`: cuda where `gpus` is above 0, else cpu."""
    ranks: int = Field(default=1, ge=1)
    """Learner processes that train together, each on its share of a batch."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each learner process. 0: torch decides."""
    gpus: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of a GPU that Ray reserves for each learner process; 1 is a whole one. It also bounds the process's memory
    there."""
    advanced: LearnerAdvanced = LearnerAdvanced()
    """Settings that few runs change."""

    @field_validator("objective")
    @classmethod
    def _objective_has_a_form(cls, value: str) -> str:
        if value in OBJECTIVE_NAMES or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            return value
        others = installed("objectives")
        if value not in others:
            raise ValueError(f"must be one of {', '.join([*OBJECTIVE_NAMES, *others])}, or module:function of your own")
        return value

    @field_validator("priority")
    @classmethod
    def _shares_are_positive(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and not (value and all(share > 0 for share in value.values())):
            raise ValueError("a mixture names one kind or more, each with a share above 0")
        return value

    def canary_tolerance_of(self, dtype: str) -> float:
        """The tolerance of canaries for weights of a dtype, nats."""
        return CANARY_TOLERANCE[dtype] if self.canary_tolerance is None else self.canary_tolerance

    @property
    def priority_shares(self) -> dict[str, float]:
        """Kind -> exponent. `sft` has no residual: it draws all demonstrations alike, whatever their reward."""
        if self.objective == "sft":
            return {"residual": 1.0}
        return (
            {str(k): v for k, v in self.priority.items()} if isinstance(self.priority, dict) else {self.priority: 1.0}
        )
