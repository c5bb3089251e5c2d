"""What a run may choose about its buffer."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BufferConfig(BaseModel):
    """The `[buffer]` table of a recipe."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    url: str | None = None
    """redis://, rediss:// or unix:// address. None: the run starts a server of its own.
    The password belongs in TRIBUTARY_REDIS_PASSWORD, since a recipe is copied into the run's folder."""
    port: int = Field(default=0, ge=0, le=65535)
    """Loopback port of the run's own server. 0: any free one."""
    capacity: int = Field(default=100_000, ge=1)
    """Trajectories kept; beyond it the one added longest ago leaves."""
    fresh_capacity: int = Field(default=1024, ge=1)
    """Arrivals that wait to be drawn as fresh. When actors outpace the learner the oldest of them are only replayed: a
    longer queue would be staler, not better."""
    min_size_to_sample: int = Field(default=64, ge=1)
    """The learner waits until this many have arrived, repeats included: fewer make batches of repeats."""
    priority_exponent: float = Field(default=0.6, ge=0.0)
    """Draw weight = priority ** exponent. 0: uniform; 1: proportional to the residual."""
    max_samples_per_insert: float = Field(default=0.0, ge=0.0)
    """The learner waits while it has drawn more rows than this per added trajectory. 0: no limit."""

    @model_validator(mode="after")
    def _sampling_can_start(self) -> Self:
        if self.min_size_to_sample > self.capacity:
            raise ValueError(
                f"min_size_to_sample = {self.min_size_to_sample} exceeds capacity = {self.capacity}: the learner would "
                "wait forever. Raise capacity or lower min_size_to_sample."
            )
        return self
