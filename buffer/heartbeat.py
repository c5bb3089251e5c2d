"""Who is alive: every process says so now and then, and silence for `LIFETIME_S` counts as death.

Times are the server's, so machines with different clocks agree.
"""

from typing import cast

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

LIFETIME_S = 30
"""Silence after which a member no longer counts, s. Beat at least three times as often."""


class Heartbeats:
    """The processes around the buffer called `name`."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._keys = Keys(name)

    @store_errors("sending a heartbeat")
    def beat(self, role: str, member: str) -> None:
        """Say that `member` (unique in its role) is alive now."""
        key, now = self._keys.alive(role), self._now()
        with self._client.pipeline() as pipe:
            pipe.zadd(key, {member: now})
            pipe.zremrangebyscore(key, "-inf", f"({now - LIFETIME_S}")
            pipe.expire(key, LIFETIME_S)
            pipe.execute()

    @store_errors("asking who is alive")
    def alive(self, role: str) -> list[str]:
        """Members heard within the last LIFETIME_S seconds, sorted."""
        since = self._now() - LIFETIME_S
        members = cast(list[bytes], self._client.zrangebyscore(self._keys.alive(role), since, "+inf"))
        return sorted(member.decode() for member in members)

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return float(seconds) + microseconds / 1e6
