"""What the actors report, and which of them hang: a hung process is not dead, so Ray alone would wait for it for ever.

A stopped process answers no call; one whose engine hangs answers that it has been in one step for long.
"""

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
        """`silent_limit_s`: an actor that hangs for this long is ended, s; Ray starts it again."""
        self._watchdog = Watchdog("actor", "actors.advanced.silent_limit_s", silent_limit_s, events)
        self._statuses = Statuses()
        self._ended: set[int] = set()
        """Actors that were ended and have not answered since: Ray may take seconds to see the end."""
        self.hung: set[int] = set()
        """Actors that have not answered, or have been in one step of the engine, for SLOW_S."""

    def report(self, actors: Mapping[int, Handle]) -> tuple[list[dict[str, Any]], list[str]]:
        """(statuses of those that answer, named waits); ends the actors that hang."""
        self._statuses.refresh(actors, ANSWER_LIMIT_S)
        newest, statuses, waits = self._statuses.newest, list[dict[str, Any]](), list[str]()
        self.hung.clear()
        for number, actor in actors.items():
            if number in self._ended and number not in newest:
                continue
            self._ended.discard(number)
            silent_s, status = self._statuses.silent_s(number), newest.get(number)
            if status and not silent_s:
                statuses.append(status)
                waits += [status["waiting_for"]] if status["waiting_for"] else []
                silent_s = status["engine_step_s"]
            if self._watchdog.ends(number, actor, silent_s):
                self._statuses.forget(number)
                self._ended.add(number)
            elif slow := self._watchdog.waits(number, silent_s):
                waits += slow
                self.hung.add(number)
        return statuses, waits
