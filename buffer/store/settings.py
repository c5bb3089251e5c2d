"""The rules of one store that all its clients must agree on; kept in Redis with the items."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class StoreSettings(BaseModel):
    """Rules of admission and departure."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    capacity: int = Field(ge=1)
    """Items kept."""
    evict: Literal["oldest", "lowest_priority", "most_sampled"] = "oldest"
    """Which item makes room for a new one."""
    per_prompt_quota: int = Field(default=0, ge=0)
    """Items kept of one prompt; 0: no limit. Beyond it the prompt's own first by `evict` leaves."""
    max_times_sampled: int = Field(default=0, ge=0)
    """An item leaves with this draw; 0: never."""
    fresh_capacity: int = Field(default=1024, ge=1)
    """Arrivals that wait to be drawn as fresh; beyond it the one waiting longest is only replayed."""
    max_staleness: int = Field(default=-1, ge=-1)
    """Versions behind the newest beyond which an item neither enters nor is drawn; -1: no limit."""
    rank_by_reward: bool = False
    """Keep the order by log R that drawing the highest rewards needs."""

    @property
    def ranked_by(self) -> str:
        """What the ranking beside the items is by: none, reward or draws."""
        if self.evict == "most_sampled":
            return "draws"
        return "reward" if self.rank_by_reward else "none"
