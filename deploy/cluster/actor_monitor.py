"""What the actors report, and which of them hang: a hung process is not dead, so Ray alone would wait for it for ever.

A stopped process answers no call; one whose engine hangs answers that it has been in one step for long.
"""

from collections.abc import Mapping
from typing import Any

import ray

from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.ray_calls import Handle
from deploy.cluster.statuses import Statuses

ANSWER_LIMIT_S = 2.0
"""The driver does not wait longer for an answer, s."""
SLOW_S = 15.0
"""An actor that has not answered for this long is a named wait, s."""


class ActorMonitor:
    """Statuses of the actors, as in `RolloutActor.status`."""

    def __init__(self, silent_limit_s: float, events: ProcessEvents) -> None:
        """`silent_limit_s`: an actor that hangs for this long is ended, s; Ray starts it again."""
        self._limit_s, self._events, self._statuses = silent_limit_s, events, Statuses()

    def report(self, actors: Mapping[int, Handle]) -> tuple[list[dict[str, Any]], list[str]]:
        """(statuses of those that answer, named waits); ends the actors that hang."""
        self._statuses.refresh(actors, ANSWER_LIMIT_S)
        newest, statuses, waits = self._statuses.newest, list[dict[str, Any]](), list[str]()
        for number, actor in actors.items():
            silent_s, status = self._statuses.silent_s(number), newest.get(number)
            if status and not silent_s:
                statuses.append(status)
                waits += [status["waiting_for"]] if status["waiting_for"] else []
                silent_s = status["engine_step_s"]
            if silent_s > self._limit_s:
                ray.kill(actor, no_restart=False)  # reaches a stopped process, too
                self._statuses.forget(number)
                text = f"actor-{number} did not answer for {silent_s:.0f} s: it was ended"
                self._events.add(ProcessEvent("ended", "actor", text))
            elif silent_s > SLOW_S:
                waits.append(
                    f"actor-{number} does not answer: for {silent_s:.0f} s; it is ended after {self._limit_s:g} s "
                    "(actors.advanced.silent_limit_s)"
                )
        return statuses, waits
