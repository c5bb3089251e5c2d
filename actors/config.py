"""The `[actors]` section of a recipe: how many actors, on which engine, sampling with which behaviours."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_TEMPERATURE = 2.0
"""Highest sampling temperature that vLLM takes."""


class BehaviourConfig(BaseModel):
    """One entry of `[[actors.behaviours]]`: a way to sample trajectories. It changes which strings are sampled, not how
    they are scored."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    """Name of the behaviour. `on_policy` is reserved for the policy itself: temperature 1, stop not suppressed."""
    weight: float = Field(gt=0.0)
    """Share of the trajectories, relative to the weights of the other behaviours."""
    temperature_low: float = Field(default=1.0, ge=0.1, le=MAX_TEMPERATURE)
    """Lowest sampling temperature. Each trajectory's temperature is uniform between the lowest and the highest."""
    temperature_high: float = Field(default=1.0, ge=0.1, le=MAX_TEMPERATURE)
    """Highest sampling temperature. vLLM takes none above 2."""
    suppress_stop: bool = False
    """Never stop before the last allowed action. One long string trains the stop decision at each of its prefixes."""

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
                "behaviour on_policy must have temperature 1 and may not suppress the stop token: "
                "give this behaviour another name"
            )
        return self


ON_POLICY = BehaviourConfig(name="on_policy", weight=1.0)


class ActorAdvanced(BaseModel):
    """Section `[actors.advanced]` of a recipe: settings that few runs change."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    start_limit_s: float = Field(default=600.0, gt=0.0)
    """Longest time in which all processes of a run load their models, s. Engines on GPUs also compile kernels: large
    models may need more."""
    wait_limit_s: float = Field(default=300.0, gt=0.0)
    """Longest wait for an adapter or for reward workers, s."""
    silent_limit_s: float = Field(default=300.0, ge=5.0)
    """An actor that does not answer, or whose engine has been in a single step, for this long is killed and restarted,
    s."""
    max_restarts: int = Field(default=10, ge=0)
    """Restarts of a dead actor within an hour, on another node if its own is gone; in a crash loop each after a longer
    delay. Then the run goes on without it, and ends if no actor is left."""
    simulated_rate: float = Field(default=20.0, gt=0.0)
    """Responses that a simulated engine finishes, 1/s."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have (`ray start --labels`) to run an actor."""
    cpus: float = Field(default=0.5, ge=0.0)
    """CPU cores, or a share of one, that Ray reserves for each actor. It decides placement, not speed."""


class ActorConfig(BaseModel):
    """Section `[actors]` of a recipe: the processes that sample trajectories from the policy."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    count: int = Field(default=1, ge=1)
    """Number of actors. Each has an engine of its own."""
    behaviours: list[BehaviourConfig] = Field(default=[ON_POLICY], min_length=1)
    """Ways to sample trajectories, chosen by weight."""
    max_in_flight: int = Field(default=32, ge=1)
    """Trajectories that an engine generates at the same time."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Trajectories sampled from one prompt before the actor takes the next prompt."""
    push_size: int = Field(default=32, ge=1)
    """Finished trajectories in one call to a reward worker."""
    max_model_len: int = Field(default=512, ge=16)
    """Longest prompt and response together, in tokens, that an engine has room for. Where a recipe does not set it, it
    grows with the longest prompt, and is at most the model's positions."""
    threads: int = Field(default=1, ge=0)
    """CPU threads of each engine during training. 0: torch decides."""
    engine: Literal["vllm", "simulated"] = "vllm"
    """Engine that generates responses. `simulated`: random responses at a set rate, without a model, to test a
    cluster or everything around the engines."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one node over which vLLM spreads one engine. Each actor reserves `gpus` that many times."""
    gpus: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of a GPU that Ray reserves for each actor; 1 is a whole one. It decides placement: the engine takes the
    memory of its weights, of `kv_cache_gib` and of a step."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Memory for keys and values of one engine, GiB, on a CPU or on each of its GPUs. Requests without room in it
    wait."""
    advanced: ActorAdvanced = ActorAdvanced()
    """Settings that few runs change."""
