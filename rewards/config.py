"""What a recipe may say about rewards and the task."""

from pydantic import BaseModel, ConfigDict, Field

Option = str | int | float | bool | list[str] | list[int] | list[float]


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
    max_restarts: int = Field(default=3, ge=0)
    """Times that Ray starts a dead worker again; its calls are made again, which the buffer's deduplication absorbs."""
    cache_size: int = Field(default=100_000, ge=0)
    """Scores kept by content, so that a string that comes again is not scored again."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each worker; 0 leaves it to torch."""
    device: str = "auto"
    """auto, cpu or cuda."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves: a matter of placement, not of speed."""
    gpus: float = Field(default=0.0, ge=0.0)
    """GPUs, or a share of one, that Ray reserves for each worker."""
