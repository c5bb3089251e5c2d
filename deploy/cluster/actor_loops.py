"""The actors' sampling loops: one call in flight per actor, `run`, or `ready` while its process is being restarted."""

import time
from collections.abc import Callable, Iterable

import ray

from deploy.cluster.process_events import ProcessEvent, ProcessEvents
from deploy.cluster.ray_calls import Call, Handle
from deploy.cluster.worker_group import WorkerGroup

STOP_LIMIT_S = 30.0
RETRY_DELAY_S = 1.0
"""Time between two calls to an actor whose process is being restarted, s."""


class ActorLoops:
    """Ray restarts a dead process; this class then starts its loop again, and goes on without one that keeps dying."""

    def __init__(self, group: WorkerGroup, events: ProcessEvents, last_words: Callable[[str], str]) -> None:
        """`last_words`: the error with which the process of this name ended; empty if it left none."""
        self._group = group
        self._events = events
        self._last_words = last_words
        self._calls: dict[Call, int] = {}
        self._down: set[int] = set()
        """Actors whose process ended and has not answered since."""
        self._retry_at: dict[int, float] = {}

    @property
    def calls(self) -> list[Call]:
        """The loops in flight."""
        return list(self._calls)

    @property
    def available(self) -> dict[int, Handle]:
        """Number -> ready actor, of those whose process is not being restarted."""
        return {number: actor for number, actor in self._group.members.items() if number not in self._down}

    @property
    def restarting(self) -> int:
        """Number of actors whose process is being restarted."""
        return len(self._down & self._group.members.keys())

    def start(self, numbers: Iterable[int]) -> None:
        """Start the loops of these actors; of one whose process is being restarted, once it answers."""
        for number in numbers:
            self._retry_at.pop(number, None)
            actor = self._group.members[number]
            self._calls[(actor.ready if number in self._down else actor.run).remote()] = number

    def handle_end(self, call: Call) -> None:
        """Handle a call that returned: its actor drains, its process died or is back, or its error ends the run."""
        number = self._calls.pop(call)
        if number not in self._group.members:
            self._down.discard(number)
            return
        name = f"actor-{number}"
        try:
            ray.get(call)
        except ray.exceptions.RayTaskError:
            raise  # an error of the loop itself, or one that a reward worker passed on
        except ray.exceptions.ActorUnavailableError:
            if number not in self._down:
                words = self._last_words(name)
                text = f"{name} died and is being restarted" + (f": {words}" if words else "")
                self._events.add(ProcessEvent("restart", "actor", text))
                self._down.add(number)
        except ray.exceptions.ActorDiedError as error:
            self._leave_out(number, error)
            return
        else:
            if number in self._down:
                self._down.remove(number)
                self.start([number])
                return
        self._retry_at[number] = time.monotonic() + RETRY_DELAY_S

    def retry(self) -> None:
        """Call the actors whose RETRY_DELAY_S is over."""
        now = time.monotonic()
        due = [number for number, at in self._retry_at.items() if at <= now]
        for number in due:
            del self._retry_at[number]
        self.start(number for number in due if number in self._group.members)

    def _leave_out(self, number: int, error: ray.exceptions.ActorDiedError) -> None:
        """Go on without an actor that Ray starts no more. Raise its error where no other is ready."""
        self._down.discard(number)
        if number in self._group.members:
            words = self._last_words(f"actor-{number}")
            self._events.add(ProcessEvent("trouble", "actor", self._group.drop(number, error, words)))

    def stop(self) -> None:
        """End all loops and wait until they have returned. An actor that has not after STOP_LIMIT_S is killed: the
        others draw the final samples."""
        if not self._calls:
            return
        for actor in self._group.members.values():
            actor.stop.remote()
        done, pending = ray.wait(self.calls, num_returns=len(self._calls), timeout=STOP_LIMIT_S)
        for call in done:
            number = self._calls.pop(call)
            try:
                if ray.get(call):  # `ready` of one that is back
                    self._down.discard(number)
            except ray.exceptions.ActorDiedError as error:
                self._leave_out(number, error)
            except ray.exceptions.RayActorError:
                self._down.add(number)
                self._retry_at[number] = time.monotonic()
        for call in pending:
            number = self._calls.pop(call)
            if number in self._group.members:
                ray.kill(self._group.members[number], no_restart=False)
                self._down.add(number)
                self._retry_at[number] = time.monotonic()
                text = f"actor-{number} did not stop within {STOP_LIMIT_S:.0f} s: it was ended"
                self._events.add(ProcessEvent("ended", "actor", text))
