"""An actor's connection to the reward workers: round robin, a bounded in-flight window, no batch lost with a worker."""

import math
import time

import ray

from buffer.errors import TributaryError, WaitTimeout
from buffer.types import Trajectory
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.ray_calls import Call, Handle

REFRESH_S = 2.0
"""Time between two requests for the workers' names, s."""
RETRY_DELAY_S = 0.5
BATCHES_PER_WORKER = 2
"""Batches of all actors at one worker: one is scored while the next arrives. More would only make strings older."""


class RewardClient:
    """An actors.rollout.RewardGate."""

    def __init__(self, store: AdapterStoreClient, actors: int, first: int, wait_limit_s: float) -> None:
        """`actors`: number of clients that share the workers. `first` is the index of the first worker: actors that
        start with different ones spread their load."""
        self._store = store
        self._actors = actors
        self._wait_limit_s = wait_limit_s
        self._turn = first
        self._workers: dict[str, Handle] = {}
        self._refreshed_at = -REFRESH_S
        self._in_flight: dict[Call, list[Trajectory]] = {}

    def send(self, trajectories: list[Trajectory]) -> None:
        """Start to score a batch; does not wait for it."""
        self._refresh()
        names = sorted(self._workers)
        name = names[self._turn % len(names)]
        self._turn += 1
        self._in_flight[self._workers[name].score.remote(trajectories)] = trajectories

    def free_slots(self, timeout_s: float) -> int:
        """Free slots in the in-flight window; waits up to `timeout_s` for one. Raises what a worker raised.

        A batch whose worker was removed or died for good is sent to another one: the buffer takes no trajectory twice.
        """
        if self._in_flight:
            full = len(self._in_flight) >= self._window
            done, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=timeout_s if full else 0)
            for call in done:
                trajectories = self._in_flight.pop(call)
                try:
                    ray.get(call)
                except ray.exceptions.RayActorError:
                    self._refreshed_at = -REFRESH_S
                    self.send(trajectories)
        return self._window - len(self._in_flight)

    @property
    def _window(self) -> int:
        """Batches that this actor may have at the workers: its share of BATCHES_PER_WORKER, at least one."""
        return max(math.ceil(BATCHES_PER_WORKER * len(self._workers) / self._actors), 1)

    def _refresh(self) -> None:
        """Look up the workers every REFRESH_S. Raises WaitTimeout when there are none for `wait_limit_s`."""
        if self._workers and time.monotonic() - self._refreshed_at < REFRESH_S:
            return
        deadline = time.monotonic() + self._wait_limit_s
        while True:
            self._refreshed_at = time.monotonic()
            self._workers = {name: handle for name in self._store.reward_workers() if (handle := _find(name))}
            if self._workers:
                return
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"no reward worker was ready for {self._wait_limit_s:.0f} s (actors.advanced.wait_limit_s). Start "
                    "one: tributary scale rewards=1 --run DIR"
                )
            time.sleep(RETRY_DELAY_S)


def _find(name: str) -> Handle | None:
    """The worker's handle; None once it is gone."""
    try:
        return ray.get_actor(name)
    except ValueError:
        return None
    except ray.exceptions.RayError as error:
        raise TributaryError(f"Ray can't look up {name}: {error}") from error
