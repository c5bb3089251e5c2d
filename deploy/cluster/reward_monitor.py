"""What the reward workers report, and what is wrong with them.

A worker that is scoring answers after its batch; that its process is alive, a thread of its own reports. One without
heartbeats is stopped, or some code holds the interpreter's lock: it is ended, and Ray starts it again.
"""

from collections.abc import Mapping
from typing import Any

from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.process_events import ProcessEvents
from deploy.cluster.ray_calls import Handle
from deploy.cluster.statuses import Statuses
from deploy.cluster.watchdog import Watchdog
from rewards.time_limit import longest_call_s

SILENT_S = 30.0
"""A worker that has not answered for this long is reported, s."""
SLOW_SHARE = 0.1
"""A task function that takes this share of its time limit on average is reported."""


class RewardMonitor:
    """Statuses of the workers, as in `RewardWorker.status`, requested without waiting."""

    def __init__(
        self, time_limit_s: float, silent_limit_s: float, store: AdapterStoreClient, events: ProcessEvents
    ) -> None:
        """`time_limit_s` of a reward function; `silent_limit_s`: a worker without heartbeats for this long is ended."""
        limit_s = max(silent_limit_s, longest_call_s(time_limit_s))
        self._watchdog = Watchdog("reward", "rewards.advanced.silent_limit_s", limit_s, events)
        self._time_limit_s, self._store = time_limit_s, store
        self._without_beat: dict[str, float] = {}
        self._requests = Statuses()
        self._statuses: dict[int, dict[str, Any]] = {}
        """Of a worker that Ray restarts, its last one."""

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The newest status of each worker that has answered."""
        return [self._statuses[number] for number in sorted(self._statuses)]

    def troubles(self, workers: Mapping[int, Handle], without_beat: Mapping[str, float] | None) -> list[str]:
        """One sentence for each worker that is slow, silent, or has quarantined strings; ends those that hang.

        `without_beat`: name -> seconds since its last heartbeat; None: as at the call before.
        """
        if without_beat is not None:
            self._without_beat = dict(without_beat)
        self._requests.refresh(workers)
        for number in self._requests.lost:
            self._forget_beats(f"reward-{number}")
        self._statuses = {n: s for n, s in (self._statuses | self._requests.newest).items() if n in workers}
        sentences = []
        for number in workers:
            silent_s, name = self._requests.silent_s(number), f"reward-{number}"
            stopped_s = self._without_beat.get(name, 0.0)
            if self._watchdog.ends(number, workers[number], stopped_s):
                self._requests.forget(number)
                self._forget_beats(name)
            elif waits := self._watchdog.waits(number, stopped_s):
                sentences += waits
            elif silent_s > SILENT_S:
                sentences.append(
                    f"{name} has been at one batch for {silent_s:.0f} s: it is scoring, or waiting for the learner to "
                    "draw (buffer.samples_per_insert)"
                )
            if number in self._statuses:
                sentences += self._of_status(name, self._statuses[number])
        return sentences

    def _forget_beats(self, name: str) -> None:
        """Its heartbeats are those of an earlier life."""
        self._store.forget_beats(name)
        self._without_beat.pop(name, None)

    def _of_status(self, name: str, status: Mapping[str, Any]) -> list[str]:
        sentences = []
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
