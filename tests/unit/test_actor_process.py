"""A failing engine ends its process; a TributaryError ends the run instead."""

from typing import Any

import pytest

from buffer.errors import AdapterError
from deploy.cluster import actor_process
from deploy.cluster.actor_process import ActorProcess
from deploy.telemetry.logs import process_log


class Ended(BaseException):
    """Raised in place of the end of the process."""


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self) -> None:
        raise self._error


def run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def end(code: int) -> Any:
        assert code == 1
        raise Ended

    monkeypatch.setattr(actor_process.os, "_exit", end)
    actor = ActorProcess.__new__(ActorProcess)
    actor._rollout = Failing(error)  # type: ignore[assignment]
    actor._log = process_log("run", "actor-0")
    actor.run()


def test_a_dead_engine_ends_its_process_so_that_ray_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended):
        run(monkeypatch, RuntimeError("the engine core died"))


def test_a_wrong_adapter_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterError, match="canary"):
        run(monkeypatch, AdapterError("canary of version 3 differs"))
