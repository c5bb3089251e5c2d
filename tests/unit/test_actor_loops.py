"""The end of the actors' loops."""

from types import SimpleNamespace
from typing import Any

import pytest

from deploy.cluster import actor_loops
from deploy.cluster.actor_loops import ActorLoops
from deploy.cluster.process_events import ProcessEvents


class Actor:
    """A handle whose loop ends when it is told to, or never."""

    def __init__(self, name: str, hangs: bool) -> None:
        self.name, self.hangs = name, hangs
        self.run = SimpleNamespace(remote=lambda: self)
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
    loops = ActorLoops(group, 10, events)
    loops.start([0, 1])
    loops.stop()
    assert killed == [(hung, False)] and list(loops.available.values()) == [well] and loops.calls == []
    assert [event.text for event in events.drain()] == ["actor-0 did not stop within 30 s: it was ended"]
    loops.start([0, 1])
    assert list(loops.available) == [0, 1], "after an evaluation it is asked to sample again"
