"""What a recipe may say about actors: how many, which engine, which behaviours."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BehaviourConfig(BaseModel):
    """One way to draw trajectories: `[[actors.behaviours]]`. It changes which strings are drawn, not how they score."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    """`on_policy` is reserved for the policy itself: temperature 1, stopping as it likes."""
    weight: float = Field(gt=0.0)
    """Share of the trajectories, relative to the other behaviours."""
    temperature_low: float = Field(default=1.0, ge=0.1, le=10.0)
    temperature_high: float = Field(default=1.0, ge=0.1, le=10.0)
    """Each trajectory's sampling temperature is uniform between the two."""
    suppress_stop: bool = False
    """Never stop before the last allowed action: one long string trains every prefix of it."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature_low > self.temperature_high:
            raise ValueError(
                f"temperature_low = {self.temperature_low} is above "
                f"temperature_high = {self.temperature_high}: swap them"
            )
        if self.name == "on_policy" and (
            self.suppress_stop or self.temperature_low != 1.0 or self.temperature_high != 1.0
        ):
            raise ValueError(
                "behaviour on_policy must have temperature 1 and may not suppress the stop: "
                "give the other one another name"
            )
        return self


ON_POLICY = BehaviourConfig(name="on_policy", weight=1.0)


class ActorConfig(BaseModel):
    """Section `[actors]` of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    count: int = Field(default=1, ge=1)
    """Actors, each with an engine of its own."""
    behaviours: list[BehaviourConfig] = Field(default=[ON_POLICY], min_length=1)
    """What is drawn, by weight."""
    max_in_flight: int = Field(default=64, ge=1)
    """Trajectories an engine works on at once."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Trajectories drawn of a prompt before the next prompt's turn."""
    push_size: int = Field(default=32, ge=1)
    """Finished trajectories handed to a reward worker at a time."""
    max_staleness: int = Field(default=50, ge=1)
    """An actor whose served version falls more than this many versions behind the newest stops with an error."""
    wait_limit_s: float = Field(default=300.0, gt=0.0)
    """Longest wait for an adapter or for reward workers, s."""
    max_model_len: int = Field(default=512, ge=16)
    """Prompt and response tokens an engine makes room for."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Memory for keys and values on CPU, GiB."""
    gpu_memory_fraction: float = Field(default=0.5, gt=0.0, le=0.95)
    """Of a GPU's memory, for weights and cache of one engine."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each engine while training; 0 leaves it to torch."""
    max_restarts: int = Field(default=10, ge=0)
    """Times that Ray starts a dead actor again, each time after a longer wait, on another node if its own is gone."""
    engine: Literal["vllm", "simulated"] = "vllm"
    """simulated: random responses at a set rate, without a model: to try a cluster, or what surrounds the engines."""
    simulated_rate: float = Field(default=20.0, gt=0.0)
    """Responses a simulated engine finishes, 1/s."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one node that one engine is spread over, by vLLM; each actor reserves as many times its `gpus`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`), to place the processes of this section."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves: a matter of placement, not of speed."""
    gpus: float = Field(default=0.0, ge=0.0)
    """GPUs, or a share of one, that Ray reserves for each actor."""
