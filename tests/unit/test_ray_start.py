"""Ray on this machine is tried again where it does not start in time; the user's own Ray is left alone."""

import subprocess
import sys
from typing import Any

import pytest

from buffer.errors import TributaryError
from deploy.cluster import placement


@pytest.fixture
def shut_down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Without an address; collects the calls of ray.shutdown."""
    calls: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(placement.ray, "shutdown", lambda: calls.append("shutdown"))
    return calls


def test_a_node_that_does_not_start_in_time_is_ended_and_ray_is_tried_again(
    shut_down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rest: list[subprocess.Popen[bytes]] = []

    def init(_temp_dir: str, **options: Any) -> None:
        if len(rest) < 2:
            rest.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", _temp_dir]))
            raise RuntimeError("the node did not start")

    monkeypatch.setattr(placement.ray, "init", init)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with placement.ray_session():
            assert [process.wait(10) for process in rest] == [-9, -9] and stranger.poll() is None
            assert len(shut_down) == 2
    finally:
        for process in (stranger, *rest):
            process.kill()
            process.wait()


def test_ray_that_never_starts_ends_in_its_own_words_after_the_last_try(
    shut_down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def init(**options: Any) -> None:
        tries.append("init")
        raise RuntimeError("no ports are left")

    monkeypatch.setattr(placement.ray, "init", init)
    with pytest.raises(TributaryError, match="no ports are left"), placement.ray_session():
        pass
    assert len(tries) == placement.LOCAL_TRIES

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    tries.clear()
    with pytest.raises(TributaryError, match="can't be joined"), placement.ray_session():
        pass
    assert len(tries) == 1, "a cluster that is not there is not waited for"


def test_ray_that_the_user_started_is_refused_and_not_shut_down(
    shut_down: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(placement.ray, "init", lambda **options: pytest.fail("there is one already"))
    with (
        pytest.raises(TributaryError, match=r"already runs in this process.*ray\.shutdown\(\)"),
        placement.ray_session(),
    ):
        pass
    assert shut_down == []
