"""What the actors report, and which of them hang: in a call, or in their engine while they still answer."""

from collections.abc import Mapping
from typing import Any

from deploy.cluster.process_events import ProcessEvents
from deploy.cluster.ray_calls import Handle
from deploy.cluster.statuses import Statuses
from deploy.cluster.watchdog import Watchdog

ANSWER_LIMIT_S = 2.0
"""The driver does not wait longer for an answer, s."""


class ActorMonitor:
    """Statuses of the actors, as in `RolloutActor.status`."""

    def __init__(self, silent_limit_s: float, events: ProcessEvents) -> None:
        self._statuses = Statuses()
        self._watchdog = Watchdog("actor", silent_limit_s, events)

    def report(self, actors: Mapping[int, Handle]) -> tuple[list[dict[str, Any]], list[str]]:
        """(statuses of those that answer, named waits); ends the actors that hang."""
        self._statuses.refresh(actors, ANSWER_LIMIT_S)
        newest, statuses, waits = self._statuses.newest, list[dict[str, Any]](), list[str]()
        for number, actor in actors.items():
            silent_s, status = self._statuses.silent_s(number), newest.get(number)
            if status and not silent_s:
                statuses.append(status)
                waits += [status["waiting_for"]] if status["waiting_for"] else []
                silent_s = status["silent_s"]
            if self._watchdog.end_if_hung(number, actor, silent_s):
                self._statuses.forget(number)
            else:
                waits += self._watchdog.sentences(number, silent_s)
        return statuses, waits
