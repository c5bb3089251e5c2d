"""What a recipe may say about rewards and the task."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

Option = TypeAliasType("Option", "str | int | float | bool | list[Option] | dict[str, Option]")
"""What TOML can say."""


class TaskConfig(BaseModel):
    """Section `[task]` of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = "integer"
    """A name of rewards/tasks, or `module:Class` of your own, importable from where the run is started."""
    options: dict[str, Option] = Field(default_factory=dict)
    """Keyword arguments of the task's class."""
    demonstrations: str | None = None
    """A file of given strings, one JSON object a line, scored and added to the buffer before training begins."""


class RewardConfig(BaseModel):
    """Section `[rewards]` of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    workers: int = Field(default=1, ge=1)
    """Processes that score."""
    max_in_flight: int = Field(default=4, ge=1)
    """Batches one actor may have under way to reward workers before it waits for them."""
    max_restarts: int = Field(default=10, ge=0)
    """Times that Ray starts a dead worker again; its calls are made again, which the buffer's deduplication absorbs."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Of the task's reward terms, by name: log R is the sum of weight x term, nats. 1 where none is given. The buffer
    keeps terms unweighted, so they may change when a run is resumed."""
    length_penalty: float = 0.0
    """Nats taken off log R for each token of a string, as one more term, `length`. Below 0 long strings are liked."""
    time_limit_s: float = Field(default=10.0, gt=0.0)
    """For log_reward and labels of one string, s. A string for which they take longer, fail or give no finite number is
    set aside with the reason, and the run goes on. What can't be interrupted ends its worker, and is then known."""
    max_failures: int = Field(default=100, ge=1)
    """So many strings in a row that can't be scored end the run."""
    max_tokens: int = Field(default=8192, ge=64)
    """Tokens of one pass of the frozen model, contexts and copies of targets included; on a CPU at most 2,560."""
    scorer: Literal["transformers", "vllm"] = "transformers"
    """What the frozen model runs on. vllm: an engine of its own, for tasks that score continuations only."""
    gpu_memory_fraction: float = Field(default=0.3, gt=0.0, le=0.95)
    """Of a GPU's memory, for weights and cache of that engine."""
    adapter: str | None = None
    """Folder of a PEFT adapter to be merged into the frozen model, such as an M-step's."""
    cache_size: int = Field(default=100_000, ge=0)
    """Scores kept by content, so that a string that comes again is not scored again."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each worker; 0 leaves it to torch."""
    device: str = "auto"
    """auto, cpu or cuda."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`), to place the processes of this section."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves: a matter of placement, not of speed."""
    gpus: float = Field(default=0.0, ge=0.0)
    """GPUs, or a share of one, that Ray reserves for each worker."""
