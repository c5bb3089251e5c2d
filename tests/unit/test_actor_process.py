"""A failing engine ends its process; a TributaryError ends the run instead."""

from typing import Any

import pytest
import ray

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


class Store:
    """Keeps last words as the adapter store does; or is gone."""

    def __init__(self, is_gone: bool = False) -> None:
        self.words: dict[str, str] = {}
        self._is_gone = is_gone

    def keep_last_words(self, process: str, words: str) -> None:
        if self._is_gone:
            raise ray.exceptions.ActorDiedError
        self.words[process] = words


def run(monkeypatch: pytest.MonkeyPatch, error: Exception, store: Store) -> None:
    def end(code: int) -> Any:
        assert code == 1
        raise Ended

    monkeypatch.setattr(actor_process.os, "_exit", end)
    actor = ActorProcess.__new__(ActorProcess)
    actor._name, actor._store = "actor-0", store  # type: ignore[assignment]
    actor._rollout = Failing(error)  # type: ignore[assignment]
    actor._log = process_log("run", "actor-0")
    actor.run()


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_dead_engine_ends_its_process_so_that_ray_starts_another_and_leaves_its_error(
    monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    store = Store(is_gone)
    with pytest.raises(Ended):
        run(monkeypatch, RuntimeError("the engine core died"), store)
    assert store.words == ({} if is_gone else {"actor-0": "RuntimeError: the engine core died"})


def test_the_last_words_of_a_process_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    with pytest.raises(Ended):
        run(monkeypatch, RuntimeError(9999 * "x"), store)
    assert len(store.words["actor-0"]) == actor_process.MAX_WORDS


def test_a_wrong_adapter_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterError, match="canary"):
        run(monkeypatch, AdapterError("canary of version 3 differs"), Store())
