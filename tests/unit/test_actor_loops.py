"""The end of the actors' loops, and their restart."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from buffer.errors import TributaryError
from deploy.cluster import actor_loops
from deploy.cluster.actor_loops import ActorLoops
from deploy.cluster.process_events import ProcessEvents
from deploy.cluster.worker_group import WorkerGroup


class Actor:
    """A handle whose loop ends when it is told to, or never; `answers` are those of its calls, an error to raise."""

    def __init__(self, name: str, hangs: bool) -> None:
        self.name, self.hangs, self.called = name, hangs, list[str]()
        self.run, self.ready = (
            SimpleNamespace(remote=lambda m=m: self.called.append(m) or self) for m in ("run", "ready")
        )
        self.stop = SimpleNamespace(remote=lambda: None)


def test_an_actor_that_does_not_stop_is_ended_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hung, well, killed, events = Actor("hung", True), Actor("well", False), [], ProcessEvents()

    def wait(calls: list[Actor], num_returns: int, timeout: float) -> tuple[list[Actor], list[Actor]]:
        assert timeout == actor_loops.STOP_LIMIT_S
        return [call for call in calls if not call.hangs], [call for call in calls if call.hangs]

    monkeypatch.setattr(actor_loops.ray, "wait", wait)
    monkeypatch.setattr(actor_loops.ray, "get", lambda call: None)
    monkeypatch.setattr(actor_loops.ray, "kill", lambda actor, no_restart: killed.append((actor, no_restart)))
    group: Any = SimpleNamespace(members={0: hung, 1: well})
    loops = ActorLoops(group, events, lambda name: "")
    loops.start([0, 1])
    loops.stop()
    assert killed == [(hung, False)] and list(loops.available.values()) == [well] and loops.calls == []
    assert [event.text for event in events.drain()] == ["actor-0 did not stop within 30 s: it was ended"]
    loops.start([0, 1])
    assert list(loops.available) == [1] and hung.called[-1] == "ready", "its new process is waited for"
    loops.handle_end(hung)
    assert list(loops.available) == [0, 1] and hung.called[-1] == "run", "after an evaluation it samples again"


def test_a_death_is_told_once_with_its_error_and_the_loop_starts_when_the_process_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actor, events = Actor("mortal", False), ProcessEvents()
    unavailable = ray.exceptions.ActorUnavailableError("restarting", None)
    answers: list[Exception | None] = [unavailable, unavailable, unavailable, None, None]
    errors = {"actor-0": "VLLMValidationError: temperature must be in [0, 2]"}

    def get(call: Actor) -> None:
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(actor_loops.ray, "get", get)
    monkeypatch.setattr(actor_loops, "RETRY_DELAY_S", 0.0)
    group: Any = SimpleNamespace(members={0: actor})
    loops = ActorLoops(group, events, lambda name: errors.pop(name, ""))
    loops.start([0])
    for _ in range(3):
        loops.handle_end(actor)
        assert loops.restarting == 1 and not loops.available
        loops.retry()
    loops.handle_end(actor)
    assert loops.restarting == 0 and list(loops.available) == [0]
    assert actor.called == ["run", "ready", "ready", "ready", "run"]
    text = "actor-0 died and is being restarted: VLLMValidationError: temperature must be in [0, 2]"
    assert [event.text for event in events.drain()] == [text]

    answers[:] = [unavailable]
    loops.handle_end(actor)
    events.drain()
    group.members = {}
    loops.retry()
    assert loops.restarting == 0 and not loops.available, "one that is scaled away is not waited for"
    group.members = {0: actor}


def test_an_actor_that_ray_starts_no_more_is_left_out_and_the_last_one_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors = {0: Actor("mortal", False), 1: Actor("well", False)}
    group, events = WorkerGroup("actor", lambda number: actors[number], 0), ProcessEvents()
    group.members |= actors
    loops = ActorLoops(group, events, lambda name: "")
    loops.start([0, 1])

    def die(call: Actor) -> None:
        raise ray.exceptions.ActorDiedError()

    monkeypatch.setattr(actor_loops.ray, "get", die)
    loops.handle_end(actors[0])
    assert list(loops.available) == [1] and loops.restarting == 0 and group.requested == 1
    loops.retry()
    assert loops.calls == [actors[1]]
    [event] = events.drain()
    assert event.kind == "trouble" and event.text.startswith(
        "actor-0 is not started again: actor-0 died without a word"
    )
    group.members[2] = actors[0]
    loops.start([2])
    monkeypatch.setattr(actor_loops.ray, "wait", lambda calls, num_returns, timeout: (calls[-1:], []))
    loops.stop()
    assert list(loops.available) == [1], "it was given up while the loops ended"
    with pytest.raises(TributaryError, match="actor-1 died without a word"):
        loops.handle_end(actors[1])
