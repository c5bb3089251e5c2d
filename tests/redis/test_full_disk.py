"""Redis on a disk that is full: clients wait, and go on once there is room."""

import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from buffer.errors import StoreError
from buffer.server import connect as module
from buffer.server.connect import connect, store_errors
from tests.support.processes import until
from tests.support.servers import server_params
from tests.support.small_disk import fill, small_disk


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(logging.getLogger("tributary"), "propagate", True)  # for caplog
    with small_disk(tmp_path) as disk:
        yield disk


@pytest.fixture(params=server_params())
def socket(disk: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that keeps its append-only file there."""
    path = tmp_path / "redis.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--dir", str(disk), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen([request.param, *settings], stdout=subprocess.DEVNULL)
    try:
        until(path.exists, 20, "the server's socket")
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()


def is_refused(client: redis.Redis) -> bool:
    """True once the server refuses writes; a few pass into what is left of a page."""
    try:
        for _ in range(64):
            client.set("small", b"x" * 1024)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    return False


def test_a_write_and_a_script_wait_for_room_and_then_go_on(
    disk: Path, socket: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, impatient = connect(socket), redis.Redis.from_url(socket)
    client.set("before", 1)
    filler = fill(disk)
    until(lambda: is_refused(impatient), 20, "a full disk")
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    results: list[object] = []

    def transaction() -> object:
        with client.pipeline(transaction=True) as pipe:
            return pipe.incr("other").execute()[0]

    calls = (lambda: client.set("after", 2), lambda: script(keys=["count"]), transaction)
    threads = [threading.Thread(target=lambda call=call: results.append(call()), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    until(lambda: caplog.text.count("Redis waits for room on its disk") == 3, 20, "three waits")
    assert client.get("before") == b"1" and connect(socket).get("before") == b"1", "reads go on"
    assert results == []
    filler.unlink()
    for thread in threads:
        thread.join(30)
    assert sorted(map(int, results)) == [1, 1, 1] and client.get("after") == b"2"  # type: ignore[call-overload]


def test_the_wait_ends_with_an_error_that_names_the_disk(
    disk: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5)
    client = connect(socket)
    fill(disk)
    until(lambda: is_refused(redis.Redis.from_url(socket)), 20, "a full disk")
    with (
        pytest.raises(StoreError, match=r"adding: Redis has no room on its disk; free some space"),
        store_errors("adding"),
    ):
        client.set("after", 2)
