"""Statistics of a buffer that need no read of its trajectories: O(1) in their number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from buffer.store.binary_layout import BINS_PER_NAT, ITEM, unpack_levels
from buffer.store.keys import Keys
from buffer.store.priority_levels import WEIGHTS, effective_size

_TOTALS = (
    *("inserted", "duplicates", "evicted", "drawn", "updated", "update_misses", "expired", "max_draws_reached"),
    *("quarantined", "near_duplicates", "arrivals", "waived"),
)


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Totals since `clear`, and current sizes. Rates are differences of totals; see `tributary buffer stats`."""

    size: int
    capacity: int
    arrivals: int
    """Trajectories admitted, repeats included."""
    inserted: int
    """Arrivals that were new."""
    duplicates: int
    evicted: int
    expired: int
    """Removed at a draw because of max_staleness."""
    max_draws_reached: int
    """Removed with their last allowed draw."""
    drawn: int
    """Rows drawn, unreadable records included."""
    waived: int
    """Draws that samples_per_insert no longer waits for: their trajectories left undrawn, or can't be drawn."""
    updated: int
    """Priorities set."""
    update_misses: int
    """Priorities for trajectories that had left."""
    quarantined: int
    near_duplicates: int
    """Near duplicates of lower reward, replaced by a new one."""
    refused: Mapping[str, int]
    """Reason (stale, quota, near_duplicate, too_large, reward_failed) -> trajectories refused."""
    fresh_waiting: int
    """Arrivals that were not drawn as fresh yet."""
    prompts: int
    """Prompts with at least one trajectory in the buffer."""
    newest_version: int
    """Newest adapter version of any arrival or `note_version`; -1 before the first."""
    last_insert_age_s: int | None
    """Seconds since the last add, by the server's clock; None before the first."""
    mean_age_s: float | None
    """Mean time since the last arrival of each trajectory in the buffer, s."""
    oldest_age_s: int | None
    reward_histogram: Mapping[float, int]
    """Lower edge of a bin of log R [nats], 1 / BINS_PER_NAT wide -> trajectories in the buffer."""
    staleness_histogram: Mapping[int, int]
    """Lower edge of a bin of staleness (0, 1, 2, 4, 8 ... versions) -> draws."""
    priority_histogram: Mapping[float, int]
    """Draw weight -> trajectories in the buffer."""
    priority_ess: float
    """Effective number of trajectories that draws by weight spread over: (sum w)^2 / sum w^2."""

    @property
    def draws_per_insert(self) -> float:
        """The ratio that `samples_per_insert` limits; 0 before the first add."""
        return self.drawn / max(self.arrivals, 1)

    @property
    def unique_ratio(self) -> float:
        """Share of the arrivals that were new; 1 before the first."""
        return self.inserted / max(self.arrivals, 1) if self.arrivals else 1.0


def read_stats(client: redis.Redis, keys: Keys, capacity: int) -> BufferStats:
    """Two round trips, a fixed number of keys."""
    with client.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.counters)
        pipe.hgetall(keys.rewards)
        pipe.hgetall(keys.staleness)
        pipe.get(keys.levels)
        pipe.hlen(keys.groups)
        pipe.time()
        raw_counters, rewards, staleness, levels, prompts, (now_s, _) = pipe.execute()
    counters: dict[str, Any] = {name.decode(): value for name, value in raw_counters.items()}
    states = unpack_levels(levels)
    counts = states["count"].astype(np.int64)
    size, last_add_s = int(counters.get("size", 0)), counters.get("last_add_s")
    oldest_age_s = mean_age_s = None
    if size:
        start = int(counters["oldest"]) * ITEM.itemsize
        oldest = np.frombuffer(client.getrange(keys.items, start, start + ITEM.itemsize - 1), ITEM)  # type: ignore[arg-type]
        if len(oldest):  # not cleared meanwhile
            oldest_age_s = max(0, now_s - int(oldest["arrived_at"][0]))
        mean_age_s = max(0.0, now_s - float(counters["arrived_sum"]) / size)
    return BufferStats(
        size=size,
        capacity=capacity,
        refused={
            name.removeprefix("refused:"): int(value) for name, value in counters.items() if name.startswith("refused:")
        },
        fresh_waiting=int(counters.get("arrivals", 0)) - int(counters.get("fresh", 0)),
        prompts=prompts,
        newest_version=int(counters.get("version", -1)),
        last_insert_age_s=None if last_add_s is None else max(0, now_s - int(last_add_s)),
        mean_age_s=mean_age_s,
        oldest_age_s=oldest_age_s,
        reward_histogram={int(b) / BINS_PER_NAT: int(n) for b, n in sorted(rewards.items(), key=lambda p: int(p[0]))},
        staleness_histogram={
            2 ** (int(bits) - 1) if int(bits) else 0: int(n)
            for bits, n in sorted(staleness.items(), key=lambda p: int(p[0]))
        },
        priority_histogram={float(WEIGHTS[level]): int(counts[level]) for level in np.flatnonzero(counts)},
        priority_ess=effective_size(counts),
        **{name: int(counters.get(name, 0)) for name in _TOTALS},
    )
