"""What a recipe may say about the learner."""

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

PriorityKind: TypeAlias = Literal["residual", "reward", "recency"]


class LearnerConfig(BaseModel):
    """Section `[learner]` of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories a step."""
    fresh_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of a batch taken in order of arrival; the rest is replayed by priority."""
    priority: PriorityKind | dict[PriorityKind, float] = "residual"
    """What draws replayed rows: learner/priority.py. A table mixes kinds: {residual = 1.0, recency = 0.5}."""
    recency_half_life: float = Field(default=8.0, gt=0.0)
    """Versions after which a row's recency is half."""
    objective: Literal["subtb", "group_subtb", "tb", "db", "vargrad", "sft"] = "subtb"
    """A file of learner/objectives."""
    subtb_lambda: float = Field(default=1.0, gt=0.0, le=10.0)
    """Weight of a pair of prefixes of one trajectory is lambda^(j-i-1). Only `subtb` reads it."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Peak, AdamW."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps of linear rise from 0."""
    decay_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Last share of the steps over which the rate falls to 0; 0 keeps it constant."""
    decay: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this L2 norm."""
    max_skipped_steps: int = Field(default=10, ge=1)
    """So many steps in a row whose loss or gradient is not finite end the run."""
    max_tokens: int = Field(default=8192, ge=0)
    """Tokens of one pass, prompts included; a batch with more is accumulated over several. Objectives that compare
    trajectories compute each twice, once for the loss and once with gradient. 0: always one pass."""
    gradient_checkpointing: bool = False
    """Keep one activation a layer and compute the rest again: slower, less memory."""
    reward_temperature_start: float = Field(default=1.0, gt=0.0)
    """T of R^(1/T) at step 0."""
    reward_temperature_end: float = Field(default=1.0, gt=0.0)
    """T from `reward_temperature_steps` on; linear in between."""
    reward_temperature_steps: int = Field(default=0, ge=0)
    publish_every: int = Field(default=1, ge=1)
    """Steps between two published adapters."""
    diagnose_every: int = Field(default=10, ge=1)
    """Steps between two readings of the exact distance to the target, where the task lists its strings."""
    canary_tolerance: float = Field(default=2e-3, gt=0.0)
    """Largest accepted difference between the actor's and the learner's canary log-probabilities, nats.
    fp32: 2e-3 (measured 5e-5); bf16: 0.3."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two checkpoints; one more is made at the end."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many are kept, the newest ones."""
    wait_limit_s: float = Field(default=300.0, gt=0.0)
    """Longest wait for data before the run stops with the reason, s."""
    device: str = "auto"
    """auto, cpu or cuda."""
    ranks: int = Field(default=1, ge=1)
    """Learner processes that act as one, each with its share of a batch."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of a learner; 0 leaves it to torch."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`), to place the processes of this section."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves: a matter of placement, not of speed."""
    gpus: float = Field(default=0.0, ge=0.0)
    """GPUs, or a share of one, that Ray reserves."""

    @field_validator("priority")
    @classmethod
    def _shares_mean_something(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and not (value and all(share > 0 for share in value.values())):
            raise ValueError("a mixture names one kind or more, each with a share above 0")
        return value

    @property
    def priority_shares(self) -> dict[str, float]:
        """Kind -> exponent. Given strings are drawn alike whatever their reward: sft knows no residual."""
        if self.objective == "sft":
            return {"residual": 1.0}
        return (
            {str(k): v for k, v in self.priority.items()} if isinstance(self.priority, dict) else {self.priority: 1.0}
        )
