"""Batches for the learner, drawn one ahead of the step.

The n-th draw has its own generator, seeded with (seed, rank, n): a run resumed after n steps draws as it would have
drawn without the interruption. Rows in flight when a learner died stay in the buffer; they are no longer fresh.

consumes   ReplayBuffer.draw
produces   rows, one batch ahead, from a thread of its own
waits for  enough arrivals in the buffer to draw from, and new ones where samples per insert are limited
unblocked by  RewardWorker.score -> ReplayBuffer.add
"""

import queue
import threading

import numpy as np

from buffer.heartbeat import Heartbeats
from buffer.named_wait import NamedWait
from buffer.replay import Drawn, ReplayBuffer

POLL_S = 0.05


class BatchSource:
    """Returns batches in the order drawn; `next` raises an error that occurred while drawing."""

    def __init__(
        self,
        buffer: ReplayBuffer,
        heartbeats: Heartbeats,
        batch_size: int,
        fresh_fraction: float,
        wait_limit_s: float,
        seed: int,
        rank: int = 0,
        first_draw: int = 0,
    ) -> None:
        """`first_draw` is the number of steps already done."""
        self._buffer = buffer
        self._heartbeats = heartbeats
        self._fresh = round(batch_size * fresh_fraction)
        self._replay = batch_size - self._fresh
        self._wait_limit_s = wait_limit_s
        self._seed = (seed, rank)
        self._draw_number = first_draw
        self._ready: queue.Queue[list[Drawn] | Exception] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self._wait: NamedWait | None = None
        self._thread = threading.Thread(target=self._run, name="batch-source", daemon=True)

    def start(self) -> None:
        """Start drawing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop drawing; `next` returns None from then on."""
        self._stopping.set()

    def next(self) -> list[Drawn] | None:
        """The next batch; None after `stop`. WaitTimeout if no data arrives within the limit."""
        while not self._stopping.is_set():
            try:
                item = self._ready.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            return item
        return None

    def waiting_for(self) -> str | None:
        """The current named wait as a sentence, if there is one."""
        wait = self._wait
        return wait.sentence() if wait else None

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._offer(self._draw_batch())
                self._draw_number += 1
        except Exception as error:  # carried to the learner's thread, where it ends the run
            self._offer(error)

    def _draw_batch(self) -> list[Drawn]:
        """Draw the next batch, waiting until there is one; empty only when stopping."""
        wait = NamedWait("learner waits for data", limit_s=self._wait_limit_s, describe=self._describe)
        while not self._stopping.is_set():
            rng = np.random.default_rng([*self._seed, self._draw_number])
            if rows := self._buffer.draw(self._fresh, self._replay, rng):
                self._wait = None
                return rows
            self._wait = wait
            wait.check()
            self._stopping.wait(POLL_S)
        return []

    def _offer(self, item: list[Drawn] | Exception) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=POLL_S)
                return
            except queue.Full:
                continue

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
        return f"{stats.arrivals} of {limit.needed} trajectories, {stats.size} kept{draws}, {alive} actors alive, {age}"
