"""What the reward workers report, and what is wrong with them."""

from collections.abc import Callable, Mapping
from typing import Any

from deploy.cluster.process_events import ProcessEvents
from deploy.cluster.ray_calls import Handle
from deploy.cluster.statuses import Statuses
from deploy.cluster.watchdog import SLOW_S, Watchdog

LONG_S = 30.0
"""A worker that has been at one batch for this long is reported, s."""
SLOW_SHARE = 0.1
"""A task function that takes this share of its time limit on average is reported."""


class RewardMonitor:
    """Statuses of the workers, as in `RewardWorker.status`, requested without waiting."""

    def __init__(
        self, time_limit_s: float, silent_limit_s: float, events: ProcessEvents, deaths: Callable[[str], int]
    ) -> None:
        """`deaths` of a process, by its name, as the process itself counts them when it starts."""
        self._time_limit_s = time_limit_s
        self._deaths = deaths
        self._deaths_seen: dict[int, int] = {}
        self._statuses = Statuses()
        self._watchdog = Watchdog("reward", silent_limit_s, events)

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The newest status of each worker that has answered."""
        return list(self._statuses.newest.values())

    def troubles(self, workers: Mapping[int, Handle]) -> list[str]:
        """One sentence for each worker that is slow, silent, or has quarantined strings; ends those that hang."""
        self._statuses.refresh(workers)
        newest, sentences = self._statuses.newest, []
        for number, worker in workers.items():
            silent_s = self._silent_s(number)
            if self._watchdog.end_if_hung(number, worker, silent_s):
                self._statuses.forget(number)
                continue
            sentences += self._watchdog.sentences(number, silent_s)
            if number in newest:
                sentences += self._of_status(f"reward-{number}", newest[number])
        return sentences

    def _silent_s(self, number: int) -> float:
        """Seconds for which a worker has owed its status. A call to one that Ray restarts waits until it has loaded: a
        worker that has started again since its last answer owes none."""
        if status := self._statuses.newest.get(number):
            self._deaths_seen[number] = status["deaths"]
        silent_s = self._statuses.silent_s(number)
        loads = silent_s > SLOW_S and self._deaths(f"reward-{number}") != self._deaths_seen.get(number, 0)
        return 0.0 if loads else silent_s

    def _of_status(self, name: str, status: Mapping[str, Any]) -> list[str]:
        sentences = []
        if status["batch_s"] > LONG_S:
            sentences.append(
                f"{name} has been at one batch for {status['batch_s']:.0f} s: it is scoring, or waiting for the "
                "learner to draw (buffer.samples_per_insert)"
            )
        if status["function_s"] > SLOW_SHARE * self._time_limit_s:
            sentences.append(
                f"{name}: the task's log_reward is slow, {status['function_s']:.2g} s per string on average, "
                f"{status['slowest_s']:.2g} s at most (rewards.time_limit_s = {self._time_limit_s:g})"
            )
        if status["failed"]:
            sentences.append(
                f"{name} has quarantined {status['failed']} strings, the last one because {status['last_failure']}"
            )
        return sentences
