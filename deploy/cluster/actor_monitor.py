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
        """(newest statuses, named waits); ends the actors that hang."""
        self._statuses.refresh(actors, ANSWER_LIMIT_S)
        statuses, waits = self._statuses.newest, []
        for number, actor in actors.items():
            silent_s = self._statuses.silent_s(number)
            if number in statuses and not silent_s:
                silent_s = statuses[number]["silent_s"]
            if self._watchdog.end_if_hung(number, actor, silent_s):
                self._statuses.forget(number)
                continue
            waits += self._watchdog.sentences(number, silent_s)
            if number in statuses and (wait := statuses[number]["waiting_for"]):
                waits.append(wait)
        return list(statuses.values()), waits
