"""An engine that fails ends its process; an error of ours ends the run instead."""

from typing import Any

import pytest

from buffer.errors import AdapterError
from deploy.cluster import ray_actors
from deploy.cluster.ray_actors import ActorProcess
from deploy.telemetry.logs import process_log


class Ended(BaseException):
    """Stands for the end of the process."""


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self) -> None:
        raise self._error


def run(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def end(code: int) -> Any:
        assert code == 1
        raise Ended

    monkeypatch.setattr(ray_actors.os, "_exit", end)
    actor = ActorProcess.__new__(ActorProcess)
    actor._rollout = Failing(error)  # type: ignore[assignment]
    actor._log = process_log("run", "actor-0")
    actor.run()


def test_a_dead_engine_ends_its_process_so_that_ray_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ended):
        run(monkeypatch, RuntimeError("the engine core died"))


def test_a_wrong_adapter_is_the_runs_business(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterError, match="canary"):
        run(monkeypatch, AdapterError("canary of version 3 differs"))
