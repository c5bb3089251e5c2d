"""Redis on a disk that is full: clients wait, and go on once there is room."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from buffer.errors import StoreError
from buffer.server import connect as module
from buffer.server.binaries import find_server
from buffer.server.connect import connect, store_errors
from tests.support.processes import until

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk ({mounted.stderr.strip()})")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def socket(small_disk: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server that keeps its append-only file there."""
    path = tmp_path / "redis.sock"
    settings = ["--port", "0", "--unixsocket", str(path), "--dir", str(small_disk), "--appendonly", "yes", "--save", ""]
    process = subprocess.Popen([find_server()[0], *settings], stdout=subprocess.DEVNULL)
    try:
        until(path.exists, 20, "the server's socket")
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()


def fill(disk: Path) -> Path:
    """A file that takes all room that is left."""
    file = disk / "filler"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(b"\0" * 4096)
    return file


def is_refused(client: redis.Redis) -> bool:
    """True once the server refuses writes; a few pass into what is left of a page."""
    try:
        for _ in range(64):
            client.set("small", b"x" * 1024)
    except redis.ResponseError as error:
        return str(error).startswith("MISCONF")
    return False


def test_a_write_and_a_script_wait_for_room_and_then_go_on(
    small_disk: Path, socket: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, impatient = connect(socket), redis.Redis.from_url(socket)
    client.set("before", 1)
    filler = fill(small_disk)
    until(lambda: is_refused(impatient), 20, "a full disk")
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    results: list[object] = []
    calls = (lambda: client.set("after", 2), lambda: script(keys=["count"]))
    threads = [threading.Thread(target=lambda call=call: results.append(call()), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    until(lambda: caplog.text.count("Redis waits for room on its disk") == 2, 20, "two waits")
    assert client.get("before") == b"1" and connect(socket).get("before") == b"1", "reads go on"
    assert results == []
    filler.unlink()
    for thread in threads:
        thread.join(30)
    assert sorted(map(int, results)) == [1, 1] and client.get("after") == b"2"  # type: ignore[call-overload]


def test_the_wait_ends_with_an_error_that_names_the_disk(
    small_disk: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISK_LIMIT_S", 0.5)
    client = connect(socket)
    fill(small_disk)
    until(lambda: is_refused(redis.Redis.from_url(socket)), 20, "a full disk")
    with (
        pytest.raises(StoreError, match=r"adding: Redis can't write to its disk .* free some space"),
        store_errors("adding"),
    ):
        client.set("after", 2)
