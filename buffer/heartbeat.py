"""Liveness of processes: each sends heartbeats, and counts as dead after `LIFETIME_S` without one.

Times are the server's, so machines with different clocks agree.
"""

from typing import cast

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

LIFETIME_S = 30
"""Time without a heartbeat after which a member counts as dead, s. Beat at least three times as often."""


class Heartbeats:
    """Heartbeats of the processes that share the buffer called `name`."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._keys = Keys(name)

    @store_errors("sending a heartbeat")
    def beat(self, role: str, member: str) -> None:
        """Record that `member` (unique in its role) is alive now."""
        key, now_s = self._keys.alive(role), self._now_s()
        with self._client.pipeline() as pipe:
            pipe.zadd(key, {member: now_s})
            pipe.zremrangebyscore(key, "-inf", f"({now_s - LIFETIME_S}")
            pipe.expire(key, LIFETIME_S)
            pipe.execute()

    @store_errors("reading the heartbeats")
    def alive(self, role: str) -> list[str]:
        """Members with a heartbeat within the last LIFETIME_S seconds, sorted."""
        since = self._now_s() - LIFETIME_S
        members = cast(list[bytes], self._client.zrangebyscore(self._keys.alive(role), since, "+inf"))
        return sorted(member.decode() for member in members)

    def _now_s(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds) + microseconds / 1e6
