"""What the reward workers report, and what is wrong with them.

A worker that is scoring answers after its batch; that its process is alive, a thread of its own reports. One without
heartbeats is stopped, or some code holds the interpreter's lock: it is ended, and Ray starts it again.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import ray

from deploy.cluster.adapter_store import AdapterStoreClient, Health
from deploy.cluster.process_events import ProcessEvent, ProcessEvents
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
        self._beat_at: dict[str, float] = {}
        self._forgotten_at: dict[str, float] = {}
        """When the beats before became those of an earlier life."""
        self._requests = Statuses()
        self._statuses: dict[int, dict[str, Any]] = {}
        """Of a worker that Ray restarts, its last one."""
        self._events = events
        self._starts: dict[str, int] = {}
        self.down: set[int] = set()
        self.hung: set[int] = set()
        """Workers without a heartbeat for watchdog.SLOW_S."""
        """Workers that died and have not answered since."""
        self._told: set[int] = set()
        """Those whose death was told by a request, and whose start the store has not counted yet."""

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """The newest status of each worker that has answered."""
        return [self._statuses[number] for number in sorted(self._statuses)]

    @property
    def gone(self) -> dict[int, ray.exceptions.ActorDiedError]:
        """Workers that Ray starts no more, as of the last call of `troubles`."""
        return dict(self._requests.gone)

    def troubles(self, workers: Mapping[int, Handle], health: Health | None) -> list[str]:
        """One sentence for each worker that is slow, silent, or has quarantined strings; ends those that hang.

        `health` of the adapter store; None: as at the call before.
        """
        now = time.monotonic()
        if health is not None:  # a beat that a restarted store has forgotten still counts
            beats = {name: now - seconds for name, seconds in health.without_beat.items()}
            self._beat_at |= {name: at for name, at in beats.items() if at > self._forgotten_at.get(name, -math.inf)}
        self._requests.refresh(workers)
        for number in self._requests.lost:
            self._forget_beats(f"reward-{number}")
        started = self._started_again(health) & workers.keys() if health else set()
        for number in (self._requests.lost - self.down - self._requests.gone.keys()) | (started - self._told):
            text = f"reward-{number} died and is being restarted"
            self._events.add(ProcessEvent("restart", "reward", text))
            self._requests.forget(number)
            self.down.add(number)
        self._told = (self._told | self._requests.lost) - started
        self.down = (self.down - self._requests.newest.keys()) & workers.keys()
        for number in self.down:
            self._beat_at.pop(f"reward-{number}", None)  # of its earlier life
        self._statuses = {n: s for n, s in (self._statuses | self._requests.newest).items() if n in workers}
        sentences = []
        self.hung.clear()
        for number in workers:
            silent_s, name = self._requests.silent_s(number), f"reward-{number}"
            stopped_s = now - self._beat_at.get(name, now)
            if self._watchdog.ends(number, workers[number], stopped_s):
                self._requests.forget(number)
                self._forget_beats(name)
            elif waits := self._watchdog.waits(number, stopped_s):
                sentences += waits
                self.hung.add(number)
            elif silent_s > SILENT_S:
                sentences.append(
                    f"{name} has been at one batch for {silent_s:.0f} s: it is scoring, or waiting for the learner to "
                    "draw (buffer.samples_per_insert)"
                )
            if number in self._statuses:
                sentences += self._of_status(name, self._statuses[number])
        return sentences

    def _started_again(self, health: Health) -> set[int]:
        """Workers that were started since the last call: a request that waits for such a one does not say so."""
        known = self._starts
        if health.has_forgotten:  # starts that it had not told are forgotten, too
            known = dict.fromkeys(known, 0)
            self._told.clear()
        self._starts = known | health.starts
        names = [name for name, number in health.starts.items() if number > known.get(name, number)]
        return {int(name.removeprefix("reward-")) for name in names if name.startswith("reward-")}

    def _forget_beats(self, name: str) -> None:
        """Its heartbeats are those of an earlier life."""
        self._store.forget_beats(name)
        self._beat_at.pop(name, None)
        self._forgotten_at[name] = time.monotonic()

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
