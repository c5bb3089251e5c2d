"""Statuses of the reward workers, requested without waiting: a worker that is scoring answers after its batch."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import ray

from deploy.cluster.ray_calls import Call, Handle

SILENT_S = 30.0
"""A worker that has not answered for this long is reported, s."""
SLOW_SHARE = 0.1
"""A task function that takes this share of its time limit on average is reported."""


class RewardMonitor:
    """One status request in flight per worker; workers are identified by their number."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._requests: dict[int, tuple[Call, float]] = {}
        """Request in flight and when it was sent."""
        self._statuses: dict[int, dict[str, Any]] = {}

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The newest status of each worker that has answered, as in `RewardWorker.status`."""
        return [self._statuses[number] for number in sorted(self._statuses)]

    def troubles(self, workers: Mapping[int, Handle]) -> list[str]:
        """One sentence for each worker that is slow, silent, or has quarantined strings."""
        self._refresh(workers)
        sentences = []
        for number in workers:
            status, silent_s = self._statuses.get(number), time.monotonic() - self._requests[number][1]
            if silent_s > SILENT_S:
                sentences.append(
                    f"reward-{number} has been at one batch for {silent_s:.0f} s: it is scoring, or waiting for the "
                    "learner to draw (buffer.samples_per_insert)"
                )
            if status and status["function_s"] > SLOW_SHARE * self._time_limit_s:
                sentences.append(
                    f"reward-{number}: the task's log_reward is slow, {status['function_s']:.2g} s per string on "
                    f"average, {status['slowest_s']:.2g} s at most (rewards.time_limit_s = {self._time_limit_s:g})"
                )
            if status and status["failed"]:
                sentences.append(
                    f"reward-{number} has quarantined {status['failed']} strings, the last one because "
                    f"{status['last_failure']}"
                )
        return sentences

    def _refresh(self, workers: Mapping[int, Handle]) -> None:
        """Take in the statuses that have arrived and request new ones; forget workers that were removed."""
        for by_number in (self._requests, self._statuses):
            for number in set(by_number) - set(workers):
                del by_number[number]
        calls = [call for call, _ in self._requests.values()]
        done = ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        for number, worker in workers.items():
            if number in self._requests and self._requests[number][0] in done:
                call, _ = self._requests.pop(number)
                with contextlib.suppress(ray.exceptions.RayActorError):  # Ray is restarting it
                    self._statuses[number] = ray.get(call)
            if number not in self._requests:
                self._requests[number] = worker.status.remote(), time.monotonic()
