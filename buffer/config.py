"""The `[buffer]` section of a recipe."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from buffer.store.item_store import RateLimiter, Sampler
from buffer.store.settings import StoreSettings

SAMPLERS: dict[str, Sampler] = {
    "prioritized": "weighted",
    "uniform": "uniform",
    "oldest": "oldest",
    "newest": "newest",
    "highest_reward": "highest_reward",
}


class BufferAdvanced(BaseModel):
    """Section `[buffer.advanced]` of a recipe: settings that few runs change."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    port: int = Field(default=0, ge=0, le=65535)
    """Loopback port of the run's own server. 0: any free port."""
    sampler: Literal["prioritized", "uniform", "oldest", "newest", "highest_reward"] = "prioritized"
    """Rule by which rows that are not fresh are drawn."""
    replacement: bool = True
    """Allow a trajectory twice in one batch."""
    newest_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability that a row that is not fresh is drawn from the newest adapter version instead."""
    evict: Literal["oldest", "lowest_priority", "most_sampled"] = "oldest"
    """Trajectory that is removed when a new one needs its place. `oldest`: the one that arrived longest ago."""
    per_prompt_quota: int = Field(default=0, ge=0)
    """Trajectories kept per prompt. Beyond it the first of that prompt by `evict` is removed. 0: no limit."""
    max_times_sampled: int = Field(default=0, ge=0)
    """Draws after which a trajectory is removed. 0: no limit."""
    max_staleness: int = Field(default=-1, ge=-1)
    """Adapter versions behind the newest one beyond which a trajectory is neither added nor drawn. Demonstrations have
    no version and are never too stale. -1: no limit."""
    near_duplicate_distance: int = Field(default=0, ge=0)
    """A string within this many token insertions, deletions or substitutions of a string of the same prompt replaces it
    if its reward is higher; otherwise it is rejected. Needs per_prompt_quota, which bounds the comparisons. 0: off."""
    max_record_bytes: int = Field(default=1024**2, ge=1024, le=16 * 1024**2)
    """Largest trajectory, bytes. Larger ones are rejected and counted."""
    samples_per_insert_band: float = Field(default=1024.0, gt=0.0)
    """Rows that either side may be ahead of `samples_per_insert` before it waits."""
    insert_wait_limit_s: float = Field(default=600.0, gt=0.0)
    """Longest wait of reward workers for the learner before the run stops with an error, s."""


class BufferConfig(BaseModel):
    """Section `[buffer]` of a recipe: the replay buffer in Redis."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    url: str | None = None
    """Address of a Redis server: redis://, rediss:// or unix://. Unset: the run starts a server of its own. The
    password belongs in TRIBUTARY_REDIS_PASSWORD, since a recipe is copied into the run's folder."""
    capacity: int = Field(default=100_000, ge=1, le=7_000_000)
    """Largest number of trajectories kept. The limit: a table of 68 bytes per trajectory is one string in Redis, which
    holds at most 512 MiB."""
    min_size_to_sample: int = Field(default=64, ge=1)
    """Arrivals, repeats included, that the learner waits for before the first batch. Fewer make batches of repeats."""
    priority_exponent: float = Field(default=0.6, ge=0.0)
    """Draw weight = priority ** exponent. 0: uniform; 1: proportional to the priority."""
    rows_per_prompt: int = Field(default=1, ge=1)
    """Rows of a batch that share a prompt, for objectives that compare them: prompts are drawn by the total weight of
    their trajectories, then this many different trajectories of each. 1: rows are drawn independently."""
    samples_per_insert: float = Field(default=0.0, ge=0.0)
    """Rows drawn per arrival, refused ones included. The side that is ahead by more than
    `advanced.samples_per_insert_band` waits. 0: no limit."""
    advanced: BufferAdvanced = BufferAdvanced()
    """Settings that few runs change."""

    @property
    def settings(self) -> StoreSettings:
        """Rules that all clients of the buffer must agree on."""
        return StoreSettings(
            capacity=self.capacity,
            evict=self.advanced.evict,
            per_prompt_quota=self.advanced.per_prompt_quota,
            max_times_sampled=self.advanced.max_times_sampled,
            max_staleness=self.advanced.max_staleness,
            rank_by_reward=self.advanced.sampler == "highest_reward",
        )

    @property
    def rate_limiter(self) -> RateLimiter:
        """Limit of draws against inserts, and of the first draw."""
        return RateLimiter(self.samples_per_insert, self.advanced.samples_per_insert_band, self.min_size_to_sample)

    @model_validator(mode="after")
    def _sampling_can_start(self) -> Self:
        advanced = self.advanced
        if self.min_size_to_sample > self.capacity:
            raise ValueError(
                f"min_size_to_sample = {self.min_size_to_sample} exceeds capacity = {self.capacity}: the learner would "
                "wait forever. Raise capacity or lower min_size_to_sample."
            )
        if advanced.near_duplicate_distance and not advanced.per_prompt_quota:
            raise ValueError(
                f"advanced.near_duplicate_distance = {advanced.near_duplicate_distance} compares each string with all "
                "kept for its prompt, so their number needs a limit. Set advanced.per_prompt_quota, or set "
                "advanced.near_duplicate_distance to 0."
            )
        if advanced.sampler == "highest_reward" and advanced.evict == "most_sampled":
            raise ValueError(
                "advanced.sampler = 'highest_reward' and advanced.evict = 'most_sampled' each need an order of their "
                "own, and the buffer keeps one. Choose another sampler or another evict."
            )
        if self.rows_per_prompt > 1 and advanced.sampler not in ("prioritized", "uniform"):
            raise ValueError(
                f"rows_per_prompt = {self.rows_per_prompt} needs advanced.sampler = 'prioritized' or 'uniform', not "
                f"{advanced.sampler!r}. Choose one of these, or set rows_per_prompt to 1."
            )
        if 0 < advanced.per_prompt_quota < self.rows_per_prompt:
            raise ValueError(
                f"advanced.per_prompt_quota = {advanced.per_prompt_quota} never keeps rows_per_prompt = "
                f"{self.rows_per_prompt} trajectories to draw. Raise the quota or lower rows_per_prompt."
            )
        return self
