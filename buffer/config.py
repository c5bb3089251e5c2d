"""What a run may choose about its buffer."""

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
    """Trajectories kept."""
    evict: Literal["oldest", "lowest_priority", "most_sampled"] = "oldest"
    """Which one leaves when another needs its place. The oldest is the one that arrived, or arrived again, first."""
    per_prompt_quota: int = Field(default=0, ge=0)
    """Trajectories kept of one prompt; beyond it the prompt's own first by `evict` leaves. 0: no limit."""
    max_times_sampled: int = Field(default=0, ge=0)
    """A trajectory leaves with this draw. 0: never."""
    max_staleness: int = Field(default=-1, ge=-1)
    """Versions behind the newest beyond which a trajectory neither enters nor is drawn. Given strings have no version
    and never are too stale. -1: no limit."""
    near_duplicate_distance: int = Field(default=0, ge=0)
    """A string within so many insertions, deletions or substitutions of tokens of one kept for the same prompt replaces
    it if its reward is higher, else stays out. Needs per_prompt_quota, which bounds the comparing. 0: off."""
    max_record_bytes: int = Field(default=1024**2, ge=1024, le=16 * 1024**2)
    """Larger trajectories stay out, and are counted."""

    sampler: Literal["prioritized", "uniform", "oldest", "newest", "highest_reward"] = "prioritized"
    """How rows are drawn that are not fresh."""
    priority_exponent: float = Field(default=0.6, ge=0.0)
    """Draw weight = priority ** exponent. 0: uniform; 1: proportional to the residual."""
    replacement: bool = True
    """Whether a batch may hold a trajectory twice."""
    rows_per_prompt: int = Field(default=1, ge=1)
    """Rows of a batch that share a prompt, for objectives that compare them: prompts are drawn by the weight of their
    trajectories, and of each so many different ones. 1: rows come by themselves."""
    newest_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Each row that is not fresh comes from the newest version with this probability."""

    fresh_capacity: int = Field(default=1024, ge=1)
    """Arrivals that wait to be drawn as fresh. When actors outpace the learner the oldest of them are only replayed: a
    longer queue would be staler, not better."""
    min_size_to_sample: int = Field(default=64, ge=1)
    """The learner waits until this many have arrived, repeats included: fewer make batches of repeats."""
    samples_per_insert: float = Field(default=0.0, ge=0.0)
    """Rows drawn for each arrival. Where one side is ahead by more than the band, it waits. 0: no limit."""
    samples_per_insert_band: float = Field(default=1024.0, gt=0.0)
    """In rows drawn."""
    insert_wait_limit_s: float = Field(default=600.0, gt=0.0)
    """How long reward workers wait for the learner to catch up before the run ends with an error, s."""

    @property
    def settings(self) -> StoreSettings:
        """What all who share the buffer must agree on."""
        return StoreSettings(
            capacity=self.capacity,
            evict=self.evict,
            per_prompt_quota=self.per_prompt_quota,
            max_times_sampled=self.max_times_sampled,
            max_staleness=self.max_staleness,
            fresh_capacity=self.fresh_capacity,
            rank_by_reward=self.sampler == "highest_reward",
        )

    @property
    def rate_limiter(self) -> RateLimiter:
        """Who may go on."""
        return RateLimiter(self.samples_per_insert, self.samples_per_insert_band, self.min_size_to_sample)

    @model_validator(mode="after")
    def _sampling_can_start(self) -> Self:
        if self.min_size_to_sample > self.capacity:
            raise ValueError(
                f"min_size_to_sample = {self.min_size_to_sample} exceeds capacity = {self.capacity}: the learner would "
                "wait forever. Raise capacity or lower min_size_to_sample."
            )
        if self.near_duplicate_distance and not self.per_prompt_quota:
            raise ValueError(
                f"near_duplicate_distance = {self.near_duplicate_distance} compares each string with all kept for its "
                "prompt, so their number needs a limit. Set per_prompt_quota, or near_duplicate_distance to 0."
            )
        if self.sampler == "highest_reward" and self.evict == "most_sampled":
            raise ValueError(
                "sampler = 'highest_reward' and evict = 'most_sampled' each need an order of their own, and the buffer "
                "keeps one. Choose another sampler or another evict."
            )
        if self.rows_per_prompt > 1 and self.sampler not in ("prioritized", "uniform"):
            raise ValueError(
                f"rows_per_prompt = {self.rows_per_prompt} goes with sampler = 'prioritized' or 'uniform', not "
                f"{self.sampler!r}. Choose one of these, or set rows_per_prompt to 1."
            )
        if 0 < self.per_prompt_quota < self.rows_per_prompt:
            raise ValueError(
                f"per_prompt_quota = {self.per_prompt_quota} never has rows_per_prompt = {self.rows_per_prompt} "
                "trajectories to draw. Raise the quota or lower rows_per_prompt."
            )
        return self
