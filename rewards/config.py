"""The `[task]` and `[rewards]` sections of a recipe."""

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType

BASE = "base"
"""Name of the term log p_ref(Z), the only one that `beta` leaves as it is."""
LENGTH = "length"
"""Name of the term that `length_penalty` adds."""
Option = TypeAliasType("Option", "str | int | float | bool | list[Option] | dict[str, Option]")
"""A value that TOML can express."""


def tells_quality(term: str) -> bool:
    """Whether a term says how good a string is: not how likely or how long it is, and no note."""
    return term not in (BASE, LENGTH) and not term.startswith("_")


class TaskConfig(BaseModel):
    """Section `[task]` of a recipe: the prompts and their reward."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: str = "integer"
    """A name of rewards/tasks or of an installed package, or a class of your own: `module:Class`, importable from the
    folder where the run is started or from the recipe's, or `FILE.py:Class`."""
    folder: str | None = None
    """Another folder whose modules can be imported. Unset: the recipe's own, where it is not a shipped one."""
    options: dict[str, Option] = Field(default_factory=dict)
    """Keyword arguments of the task's class."""
    demonstrations: str | None = None
    """A file of demonstrations, one JSON object per line. They are scored and added to the buffer before training."""


class RewardAdvanced(BaseModel):
    """Section `[rewards.advanced]` of a recipe: settings that few runs change."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    max_restarts: int = Field(default=10, ge=0)
    """Restarts of a dead worker within an hour. Its calls are repeated; the buffer drops the duplicates. Then the run
    goes on without it, and ends if no worker is left."""
    max_failures: int = Field(default=100, ge=1)
    """The run stops with an error after this many consecutive strings that could not be scored."""
    cache_size: int = Field(default=100_000, ge=0)
    """Scores kept by content, so that a string that was scored before is not scored again."""
    silent_limit_s: float = Field(default=300.0, ge=5.0)
    """A worker whose process is stopped, or blocked by code that holds the interpreter's lock, is killed and restarted
    after this time, s; not before the longest call that rewards.time_limit_s allows. A batch may take longer."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`) to run a reward worker."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves for each worker. It decides placement, not speed."""


class TermWeights(Mapping[str, float]):
    """Name of any term of log R -> its factor: its weight, over β for every term but `base`."""

    def __init__(self, weights: Mapping[str, float], beta: float) -> None:
        self._weights, self._beta = dict(weights), beta

    def __getitem__(self, name: str) -> float:
        return self._weights.get(name, 1.0) / (1.0 if name == BASE else self._beta)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TermWeights) and (self._weights, self._beta) == (other._weights, other._beta)

    __hash__ = None  # type: ignore[assignment]


class RewardConfig(BaseModel):
    """Section `[rewards]` of a recipe: the processes that score trajectories."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    workers: int = Field(default=1, ge=1)
    """Number of reward workers, the processes that score."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Weights of the task's reward terms, by name; 1 where none is given. log R is the sum of weight x term, nats. The
    buffer keeps the terms unweighted, so weights may change when a run is resumed."""
    beta: float = Field(default=1.0, gt=0.0)
    """Every term but `base` is divided by it: log R = base + (the others) / beta. For rewards of about 1 this is the
    coefficient of the KL penalty in GRPO and PPO. May change when a run is resumed."""
    beta_start: float | None = Field(default=None, gt=0.0)
    """beta at step 0, from which it comes to `beta` over `beta_steps`. Above `beta`, the target starts near the base
    model and hardens, and the policy stays close to it on the way. Unset: beta is constant."""
    beta_steps: int = Field(default=0, ge=0)
    """Learner steps over which 1 / beta changes linearly from that of `beta_start` to its own."""
    length_penalty: float = 0.0
    """Nats subtracted from log R for each token of a string, as one more term, `length`. Negative values favour longer
    responses."""
    time_limit_s: float = Field(default=10.0, gt=0.0)
    """Time limit for log_reward and labels of one string, s. A string for which they take longer, fail or return a
    number that is not finite is quarantined with the reason, and the run goes on. Code that can't be interrupted ends
    its worker, and the string is quarantined when it comes again."""
    max_tokens: int = Field(default=8192, ge=64)
    """Tokens in one pass of the frozen model, contexts and copies of targets included. At most 2,560 on a CPU."""
    scorer: Literal["transformers", "vllm"] = "transformers"
    """Engine of the frozen model. `vllm` is for tasks that score continuations only."""
    adapter: str | None = None
    """Folder of a PEFT adapter to merge into the frozen model, such as the result of an M-step."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each worker. 0: torch decides."""
    device: str = "auto"
    """Device of the frozen model: auto, cpu or cuda. `auto`: cuda where `gpus` is above 0, else cpu."""
    gpus: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of a GPU that Ray reserves for each worker; 1 is a whole one. It also bounds the worker's memory there."""
    advanced: RewardAdvanced = RewardAdvanced()
    """Settings that few runs change."""

    @model_validator(mode="after")
    def _beta_has_a_schedule_or_none(self) -> Self:
        if (self.beta_start is None) != (self.beta_steps == 0):
            raise ValueError(f"beta_start = {self.beta_start} and beta_steps = {self.beta_steps}: set both, or neither")
        return self

    @property
    def term_weights(self) -> TermWeights:
        """The factor of each term of log R: `weights` and `beta` together."""
        return TermWeights(self.weights, self.beta)

    def term_weights_at(self, step: int) -> TermWeights:
        """The same for the target of a learner step, with the beta that it has then."""
        return TermWeights(self.weights, self.beta_at(step))

    def beta_at(self, step: int) -> float:
        """The beta of a learner step."""
        if self.beta_start is None or step >= self.beta_steps:
            return self.beta
        first, last = 1.0 / self.beta_start, 1.0 / self.beta
        return 1.0 / (first + step / self.beta_steps * (last - first))
