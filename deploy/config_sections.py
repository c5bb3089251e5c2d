"""The sections of a recipe: one class per package, composed here with those of the run itself."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from actors.config import ActorConfig
from buffer.config import BufferConfig
from learner.config import LearnerConfig
from rewards.config import RewardConfig, TaskConfig


class ModelConfig(BaseModel):
    """Section `[model]`: the base model and its adapter."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: str = "smollm2-135m-instruct"
    """Base model: a local folder, a name that `tributary model get` can fetch, or a hub id in the local hub cache."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights. `auto`: bfloat16 where actors have GPUs, else float32. On CPUs without AVX512-bf16,
    bfloat16 is 3x slower than float32; on GPUs vLLM has no LoRA in float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: the policy's base weights in 4 bits (QLoRA) by bitsandbytes, on GPUs only. Rewards use full weights."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the adapter's matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """Scale of the adapter: its output is multiplied by lora_alpha / lora_rank."""
    lora_targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] | None = None
    """Names of the linear layers that get an adapter, or `all-linear`. Unset: the model's attention projections."""


class PolicyConfig(BaseModel):
    """Section `[policy]`: the strings that the policy can generate."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    stop: str = "."
    """Text of the stop token, written ⊤ in the docs. It must be one token of the model's vocabulary."""
    max_actions: int = Field(default=32, ge=1)
    """Largest number of tokens; after it the policy must stop."""
    min_actions: int = Field(default=0, ge=0)
    """Smallest number of tokens; before it the stop token is masked."""
    allowed_tokens: list[str] | None = Field(default=None, max_length=119)
    """If given, only these tokens and the stop token can be sampled; q is renormalised over them. At most 119: an
    engine reports no more log-probabilities."""
    forbidden_tokens: list[str] = Field(default=[], max_length=119)
    """Tokens that can't be sampled; q is renormalised over all others. At most 119, and not together with
    `allowed_tokens`."""


class EvaluationConfig(BaseModel):
    """Section `[evaluation]`: samples from the base model before training and from the final adapter after it."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    samples: int = Field(default=2000, ge=0)
    """Samples per prompt, on-policy, through vLLM. 0: no evaluation; `tributary evaluate --samples N` makes one.
    Those of the base model are kept in `.base-draws` next to the folder of the run, for runs that would draw alike."""
    every: int = Field(default=0, ge=0)
    """Steps between two evaluations while training, on the split "test" where the task has one; actors pause for them.
    The last step has one too. 0: none. Their figures go to evaluations.jsonl."""
    every_samples: int = Field(default=16, ge=1)
    """Samples per prompt in an evaluation while training."""
    best: str = Field(default="", pattern=r"^(-?[A-Za-z0-9_]+)?$")
    """A figure of the evaluation while training, such as `correct`: the adapter with its largest value (with a minus in
    front, as in `-tokens`, its smallest) is kept in best/."""
    patience: int = Field(default=0, ge=0)
    """The run ends after this many evaluations in a row without a better value of `best`. 0: never."""
    prompts: int = Field(default=20, ge=0)
    """Largest number of prompts evaluated, spread evenly over all prompts. 0: all prompts."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of the engine during evaluation, when no other process works. 0: all cores."""
    limit_s: float = Field(default=7200.0, gt=0.0)
    """Longest time for generating the samples, s."""

    @property
    def cores(self) -> int:
        """CPU threads of an evaluation."""
        return self.threads or os.cpu_count() or 1


class RunConfig(BaseModel):
    """A resolved recipe."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    seed: int = Field(default=0, ge=0)
    """Seed of the run's random numbers."""
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    task: TaskConfig = TaskConfig()
    actors: ActorConfig = ActorConfig()
    rewards: RewardConfig = RewardConfig()
    buffer: BufferConfig = BufferConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
