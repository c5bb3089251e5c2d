"""The newest status of each process of a group, and for how long a process has not answered."""

import time
from collections.abc import Mapping
from typing import Any

import ray

from deploy.cluster.ray_calls import Call, Handle


class Statuses:
    """One status request in flight per process; processes are identified by their number."""

    def __init__(self) -> None:
        self._requests: dict[int, tuple[Call, float]] = {}
        """Request in flight and when it was sent."""
        self._statuses: dict[int, dict[str, Any]] = {}
        self.lost: set[int] = set()
        """Processes that the last `refresh` met dead or as they start again."""
        self.gone: dict[int, ray.exceptions.ActorDiedError] = {}
        """Processes of the last `refresh` that Ray starts no more."""

    @property
    def newest(self) -> dict[int, dict[str, Any]]:
        """Number -> newest status, of the processes that have answered and not died since."""
        return dict(sorted(self._statuses.items()))

    def refresh(self, processes: Mapping[int, Handle], wait_s: float = 0.0) -> None:
        """Request statuses and take in those that have arrived; forget processes that are not in `processes`.

        Waits up to `wait_s` for the answers, but not again for one that was waited for before.
        """
        self.lost.clear()
        self.gone.clear()
        for by_number in (self._requests, self._statuses):
            for number in set(by_number) - set(processes):
                del by_number[number]
        self._collect()
        new = [number for number in processes if number not in self._requests]
        for number in new:
            self._requests[number] = processes[number].status.options(max_task_retries=0).remote(), time.monotonic()
        if wait_s and new:
            calls = [self._requests[number][0] for number in new]
            ray.wait(calls, num_returns=len(calls), timeout=wait_s)
            self._collect()

    def silent_s(self, number: int) -> float:
        """Seconds for which a process has owed its status; 0 if it has answered."""
        return time.monotonic() - self._requests[number][1] if number in self._requests else 0.0

    def forget(self, number: int) -> None:
        """Drop the request to a process that was killed, and its status."""
        self._requests.pop(number, None)
        self._statuses.pop(number, None)

    def _collect(self) -> None:
        calls = [call for call, _ in self._requests.values()]
        done = set(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) if calls else set()
        for number, (call, _) in list(self._requests.items()):
            if call in done:
                del self._requests[number]
                try:
                    self._statuses[number] = ray.get(call)
                except ray.exceptions.RayActorError as error:
                    self._statuses.pop(number, None)
                    self.lost.add(number)
                    if isinstance(error, ray.exceptions.ActorDiedError):
                        self.gone[number] = error
