"""What reward workers say of themselves, asked without waiting for them: one that scores answers afterwards."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import ray

SILENT_S = 30.0
"""A worker that has not answered for so long is named."""
SLOW_SHARE = 0.1
"""Of the time limit: a function that takes this much on average is named."""


class RewardWatch:
    """One question under way to each worker."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._asked: dict[int, tuple[Any, float]] = {}
        self._said: dict[int, dict[str, Any]] = {}

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The newest answer of each worker that has given one."""
        return [self._said[number] for number in sorted(self._said)]

    def troubles(self, workers: Mapping[int, Any]) -> list[str]:
        """One sentence for each of `workers`, by number, that is slow, silent, or has set strings aside."""
        self._refresh(workers)
        found = []
        for number in workers:
            status, silent_s = self._said.get(number), time.monotonic() - self._asked[number][1]
            if silent_s > SILENT_S:
                found.append(
                    f"reward-{number} has been at one batch for {silent_s:.0f} s: it scores, or waits for the learner "
                    "(samples per insert)"
                )
            if status and status["function_s"] > SLOW_SHARE * self._time_limit_s:
                found.append(
                    f"reward-{number}: the task's log_reward is slow, {status['function_s']:.2g} s a string, "
                    f"{status['slowest_s']:.2g} s at most (rewards.time_limit_s = {self._time_limit_s:g})"
                )
            if status and status["failed"]:
                found.append(
                    f"reward-{number} has set {status['failed']} strings aside, the last one because "
                    f"{status['last_failure']}"
                )
        return found

    def _refresh(self, workers: Mapping[int, Any]) -> None:
        for known in (self._asked, self._said):
            for number in set(known) - set(workers):
                del known[number]  # it was taken away
        for number, worker in workers.items():
            if number in self._asked and self._asked[number][0] in self._done():
                self._take(number)
            if number not in self._asked:
                self._asked[number] = worker.status.remote(), time.monotonic()

    def _done(self) -> list[Any]:
        calls = [call for call, _ in self._asked.values()]
        return list(ray.wait(calls, num_returns=len(calls), timeout=0)[0])

    def _take(self, number: int) -> None:
        call, _ = self._asked.pop(number)
        with contextlib.suppress(ray.exceptions.RayActorError):  # it is being started again
            self._said[number] = ray.get(call)
