"""Counters that the actors of one run share. They outlive its processes: a resumed run goes on counting."""

import redis

from buffer.server.connect import store_errors
from buffer.store.keys import Keys

_TURNS, _STARTS = "turns", "starts:"


class ActorCounters:
    """The counters of the run whose buffer is called `buffer_name`."""

    def __init__(self, client: redis.Redis, buffer_name: str) -> None:
        self._client = client
        self._key = Keys(buffer_name).actors

    @store_errors("claiming prompts")
    def claim_turns(self, n: int) -> int:
        """Reserve the next n turns (actors/prompt_order.py) for the caller; returns the first of them."""
        return self._add(_TURNS, n) - n

    @store_errors("counting the start of an actor")
    def count_start(self, actor: str) -> int:
        """Count a start of `actor`; returns the number of its earlier starts, in all sessions of the run."""
        return self._add(_STARTS + actor, 1) - 1

    def _add(self, field: str, n: int) -> int:
        return int(self._client.hincrby(self._key, field, n))
