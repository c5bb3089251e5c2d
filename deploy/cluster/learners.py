"""The ranks that act as one learner: if one of their processes dies, all start again from the newest checkpoint.

Actors and reward workers keep working meanwhile, on the newest adapter, which the AdapterStore owns.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray

from buffer.errors import TributaryError
from buffer.restart_budget import RestartBudget
from buffer.types import FloatArray, Trajectory
from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.ray_calls import RESULT_LIMIT_S, Call, Handle, result_of
from deploy.cluster.root_cause import root_cause

ANSWER_LIMIT_S = 1.0
"""The driver does not wait longer for a report while the learner trains, s."""
SLOW_S = 15.0
"""A report that takes longer is a named wait, s."""
SILENT_LIMIT_S = 600.0
"""A process that has not answered for this long is ended, and with that started again, s."""
STRINGS_A_CALL = 256
"""Strings whose log q one call computes: each call has a limit of time."""
DEATH_LIMIT_S = 15.0
"""Time within which Ray has seen the death of a process, s."""


class Learners:
    """Handles of the ranks, their loops, and their restarts."""

    def __init__(self, start: Callable[[int], Handle], ranks: int, max_restarts: int, events: ProcessEvents) -> None:
        """`start` makes the process of a rank. `max_restarts`: within an hour."""
        self._start = start
        self._ranks = ranks
        self._budget = RestartBudget(max_restarts)
        self._events = events
        self._runs: list[Call] = []
        self._loading: list[Call] = []
        self._report: tuple[Call, float] | None = None
        self.is_back = False
        """True once a restarted learner has loaded its checkpoint: it waits for `run`."""
        self.handles = [start(rank) for rank in range(ranks)]

    def __len__(self) -> int:
        return self._ranks

    @property
    def ready(self) -> int:
        """Number of processes that can work."""
        return 0 if self._loading else len(self.handles)

    @property
    def calls(self) -> list[Call]:
        """The calls whose end `handle_end` wants to see."""
        return [*self._runs, *self._loading]

    @property
    def is_done(self) -> bool:
        """True once all ranks have ended their loops."""
        return not self.calls and not self.is_back

    def load(self) -> list[Call]:
        """Make the ranks meet and load the newest checkpoint; one call for each, which returns when it is ready."""
        meeting_point = self.handles[0].meeting_point.remote()
        return [handle.ready.remote(meeting_point) for handle in self.handles]

    def run(self) -> None:
        """Start the loops."""
        self.is_back = False
        self._runs = [handle.run.remote() for handle in self.handles]

    def stop(self) -> None:
        """Ask the learner to end after its current step, or before its first one."""
        for handle in self.handles:
            handle.stop.remote()

    def handle_end(self, call: Call) -> None:
        """Handle a call of `calls` that ended: a loop that is done, a process that has loaded, or a death."""
        if call not in self.calls:
            return  # of a process that was replaced meanwhile
        try:
            result_of(call, "learner")
        except TributaryError as error:
            if not isinstance(error.__cause__, ray.exceptions.RayActorError) or root_cause(error.__cause__):
                raise
            self._restart(error)
            return
        except ray.exceptions.RayTaskError:  # a rank that lost another one may say so before Ray does
            if (died := self._death_of_another(call)) is None:
                raise
            self._restart(died)
            return
        if call in self._runs:
            self._runs.remove(call)
            return
        self._loading.remove(call)
        self.is_back = not self._loading

    def report(self) -> tuple[Sequence[dict[str, Any]], str | None]:
        """(new rows, a named wait), as `LearnerProcess.report`; ([], why) if it does not answer for the moment."""
        if self._loading or self.is_back:
            return [], "the learner died and loads its newest checkpoint; actors keep sampling"
        call, since = self._report or (self.handles[0].report.remote(), time.monotonic())
        self._report = call, since
        limit_s = ANSWER_LIMIT_S if self._runs else RESULT_LIMIT_S
        if not ray.wait([call], timeout=limit_s)[0]:
            return [], self._slow(time.monotonic() - since)
        self._report = None
        try:
            rows, wait = ray.get(call)
        except ray.exceptions.RayActorError:
            return [], None  # `handle_end` restarts it
        except ray.exceptions.RayTaskError as error:
            raise (root_cause(error) or error) from None
        return rows, wait

    def publish_again(self) -> Call:
        """Publish the newest adapter once more: the call that does it."""
        return self.handles[0].publish_again.remote()

    def log_q(self, strings: Sequence[Trajectory], base_model: bool) -> FloatArray:
        """[N] log q(Z ⊤) of given strings, nats, under the newest weights or the base model. Not while it trains."""
        parts = [strings[k : k + STRINGS_A_CALL] for k in range(0, len(strings), STRINGS_A_CALL)]
        calls = (self.handles[0].log_q.remote(part, base_model) for part in parts or [strings])
        return np.concatenate([result_of(call, "learner") for call in calls])

    def _slow(self, silent_s: float) -> str | None:
        if silent_s > SILENT_LIMIT_S:
            ray.kill(self.handles[0])  # its loop then ends with an error, and `handle_end` restarts it
            self._report = None
        return f"the learner has not answered for {silent_s:.0f} s" if silent_s > SLOW_S else None

    def _death_of_another(self, call: Call) -> TributaryError | None:
        """The death of another rank's process within DEATH_LIMIT_S; None without one."""
        others = [other for other in self.calls if other != call]
        done, _ = ray.wait(others, num_returns=1, timeout=DEATH_LIMIT_S) if others else ([], [])
        for other in done:
            try:
                result_of(other, "learner")
            except TributaryError as error:
                if isinstance(error.__cause__, ray.exceptions.RayActorError):
                    return error
            except ray.exceptions.RayTaskError:
                continue
        return None

    def _restart(self, error: TributaryError) -> None:
        """Start all ranks again. Raise `error` if that has happened too often."""
        if not self._budget.spend():
            raise TributaryError(
                f"{error} It was restarted {self._budget.limit} times within an hour, as often as "
                "learner.advanced.max_restarts allows. Remove the cause; then `tributary train --resume` with the "
                "folder of the run continues from the newest checkpoint."
            ) from error
        for handle in self.handles:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(handle)
        self._report, self._runs = None, []
        self.handles = [self._start(rank) for rank in range(self._ranks)]
        self._loading = self.load()
        text = f"the learner starts again from its newest checkpoint: {error}"
        self._events.add(ProcessEvent("restart", "learner", text))
