"""Batches for the learner, each drawn when it is asked for.

A batch drawn ahead would make its fresh rows one version older and save a few milliseconds. The n-th draw has its own
generator, seeded with (seed, rank, n): a run resumed after n steps draws as it would have drawn without the
interruption.

consumes   ReplayBuffer.draw
produces   rows
waits for  enough arrivals in the buffer to draw from, and new ones where samples per insert are limited or a batch
           takes fresh rows alone
unblocked by  RewardWorker.score -> ReplayBuffer.add
"""

import threading

import numpy as np

from buffer.drawn_rows import Drawn
from buffer.heartbeat import Heartbeats
from buffer.named_wait import NamedWait
from buffer.replay import ReplayBuffer

POLL_S = 0.01


class BatchSource:
    """Draws one batch after another from the buffer."""

    def __init__(
        self,
        buffer: ReplayBuffer,
        heartbeats: Heartbeats,
        batch_size: int,
        fresh_fraction: float,
        fresh_window: int,
        fresh_only: bool,
        wait_limit_s: float,
        seed: int,
        rank: int = 0,
        first_draw: int = 0,
    ) -> None:
        """`first_draw` is the number of steps already done; `fresh_window` as in ReplayBuffer.draw. `fresh_only`: wait
        until all fresh rows of a batch have arrived; otherwise replayed ones stand in for them."""
        self._buffer = buffer
        self._heartbeats = heartbeats
        self._fresh = round(batch_size * fresh_fraction)
        self._replay = batch_size - self._fresh
        self._fresh_window = fresh_window
        self._fresh_needed = self._fresh if fresh_only else 0
        self._wait_limit_s = wait_limit_s
        self._seed = (seed, rank)
        self._draw_number = first_draw
        self._stopping = threading.Event()
        self._wait: NamedWait | None = None

    def stop(self) -> None:
        """Stop waiting; `next` returns None from then on. May be called from any thread."""
        self._stopping.set()

    def next(self) -> list[Drawn] | None:
        """The next batch; None after `stop`. WaitTimeout if no data arrives within the limit."""
        wait = NamedWait("learner waits for data", limit_s=self._wait_limit_s, describe=self._describe)
        try:
            while not self._stopping.is_set():
                rng = np.random.default_rng([*self._seed, self._draw_number])
                if rows := self._buffer.draw(self._fresh, self._replay, rng, self._fresh_window, self._fresh_needed):
                    self._draw_number += 1
                    return rows
                self._wait = wait
                wait.check()
                self._stopping.wait(POLL_S)
            return None
        finally:
            self._wait = None

    def waiting_for(self) -> str | None:
        """The current named wait as a sentence, if there is one. May be called from any thread."""
        wait = self._wait
        return wait.sentence() if wait else None

    def _describe(self) -> str:
        """The buffer's counts and the number of live actors, for the named wait."""
        stats, alive = self._buffer.stats(), len(self._heartbeats.alive("actor"))
        age = "no push yet" if stats.last_insert_age_s is None else f"last push {stats.last_insert_age_s:.0f} s ago"
        limit = self._buffer.rate_limiter
        draws = (
            f", {stats.drawn} rows drawn (limit {limit.samples_per_insert:g} per arrival, ± {limit.band:g} rows)"
            if limit.samples_per_insert
            else ""
        )
        if self._fresh_needed:
            draws += f", {stats.fresh_waiting} of {self._fresh_needed} fresh"
        return f"{stats.arrivals} of {limit.needed} trajectories, {stats.size} kept{draws}, {alive} actors alive, {age}"
