"""The rules that all clients of one store must share; stored in Redis with the items."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LAYOUT = 1
"""Number of the format of the keys in Redis (keys.py, lua/shared.lua). Raise it with every change of the format."""


class StoreSettings(BaseModel):
    """Rules of admission and eviction."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    layout: int = Field(default=LAYOUT, ge=LAYOUT, le=LAYOUT)
    """LAYOUT of the release that wrote the buffer. Buffers of layout 1 need not have it."""
    capacity: int = Field(ge=1)
    """Maximum number of items, and of arrivals in the ring that fresh draws read."""
    evict: Literal["oldest", "lowest_priority", "most_sampled"] = "oldest"
    """The item that makes room for a new one."""
    per_prompt_quota: int = Field(default=0, ge=0)
    """Maximum number of items of one prompt; 0: no limit. Beyond it the prompt's own first item by `evict` leaves."""
    max_times_sampled: int = Field(default=0, ge=0)
    """Draws after which an item leaves; 0: no limit."""
    max_staleness: int = Field(default=-1, ge=-1)
    """An item more versions behind the newest is neither admitted nor drawn; -1: no limit."""
    rank_by_reward: bool = False
    """Keep the ranking by log R that sampler `highest_reward` needs."""

    @property
    def ranked_by(self) -> str:
        """The order of the ranking: none, reward or draws."""
        if self.evict == "most_sampled":
            return "draws"
        return "reward" if self.rank_by_reward else "none"
