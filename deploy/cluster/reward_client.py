"""An actor's way to the reward workers: in turns, a bounded number of batches under way, none lost with a worker."""

import time
from typing import Any

import ray

from buffer.errors import TributaryError, WaitTimeout
from buffer.types import Trajectory
from deploy.cluster.adapter_store import AdapterStoreClient

REFRESH_S = 2.0
"""Between two questions who the workers are, s."""


class RewardClient:
    """An actors.rollout.RewardGate."""

    def __init__(self, board: AdapterStoreClient, max_in_flight: int, first: int, wait_limit_s: float) -> None:
        """`first` is the worker to begin with: actors that begin with different ones share them out."""
        self._board = board
        self._max_in_flight = max_in_flight
        self._wait_limit_s = wait_limit_s
        self._turn = first
        self._names: list[str] = []
        self._handles: dict[str, Any] = {}
        self._asked_at = -REFRESH_S
        self._in_flight: dict[Any, list[Trajectory]] = {}

    def send(self, trajectories: list[Trajectory]) -> None:
        """Start a call; does not wait for it."""
        self._refresh()
        name = self._names[self._turn % len(self._names)]
        self._turn += 1
        self._in_flight[self._handles[name].score.remote(trajectories)] = trajectories

    def room(self, timeout_s: float) -> int:
        """Calls that may still be started, waiting up to `timeout_s` for one. Raises what a worker raised.

        What was under way to a worker that was taken away, or died for good, goes to another one: the buffer takes no
        trajectory twice.
        """
        if self._in_flight:
            full = len(self._in_flight) >= self._max_in_flight
            done, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=timeout_s if full else 0)
            for call in done:
                trajectories = self._in_flight.pop(call)
                try:
                    ray.get(call)
                except ray.exceptions.RayActorError:
                    self._asked_at = -REFRESH_S
                    self.send(trajectories)
        return self._max_in_flight - len(self._in_flight)

    def _refresh(self) -> None:
        """Ask who the workers are, now and then. Raises WaitTimeout where there are none for `wait_limit_s`."""
        if self._names and time.monotonic() - self._asked_at < REFRESH_S:
            return
        deadline = time.monotonic() + self._wait_limit_s
        while True:
            self._asked_at = time.monotonic()
            self._handles = {name: handle for name in self._board.reward_workers() if (handle := _find(name))}
            self._names = sorted(self._handles)
            if self._names:
                return
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"no reward worker was there for {self._wait_limit_s:.0f} s (actors.advanced.wait_limit_s). Start "
                    "one: tributary scale rewards=1 --run DIR"
                )
            time.sleep(0.5)


def _find(name: str) -> Any:
    """The worker's handle; None once it is gone."""
    try:
        return ray.get_actor(name)
    except ValueError:
        return None
    except ray.exceptions.RayError as error:
        raise TributaryError(f"Ray does not find {name}: {error}") from error
