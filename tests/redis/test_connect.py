"""Whoever can't connect learns why at once, and no message shows a password."""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import redis

from buffer.config import BufferConfig
from buffer.errors import ConfigError, StoreError
from buffer.server.connect import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE, connect, redact
from buffer.server.redis_server import RedisServer
from deploy.driver.preflight import check_store

SECRET = "s3cret-of-mine"


def url_of(server: RedisServer, password: str) -> str:
    return f"redis://{password}127.0.0.1:{server.url.rsplit(':', 1)[1]}"


def test_a_wrong_password_is_named_as_the_cause_and_not_shown(server: RedisServer) -> None:
    with pytest.raises(StoreError, match="refuses the password; set TRIBUTARY_REDIS_PASSWORD") as error:
        connect(url_of(server, f":{SECRET}@"))
    assert SECRET not in str(error.value)


def test_a_missing_password_is_named_as_the_cause(server: RedisServer) -> None:
    with pytest.raises(StoreError, match="refuses the password"):
        connect(url_of(server, ""))


def test_the_password_may_come_from_the_environment_and_the_url_wins(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, password_of(server))
    assert connect(url_of(server, "")).ping()
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    assert connect(server.url).ping()


def password_of(server: RedisServer) -> str:
    return server.url.split(":")[2].split("@")[0]


def test_the_password_may_come_from_a_file_and_the_variable_and_the_url_win(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{password_of(server)}\n")  # as an editor or `echo` leaves it
    monkeypatch.setenv(PASSWORD_FILE_VARIABLE, str(file))
    assert connect(url_of(server, "")).ping()
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(StoreError, match="refuses the password"):
        connect(url_of(server, ""))
    assert connect(server.url).ping()


def test_a_server_too_slow_for_one_look_is_asked_again_and_one_that_stays_silent_is_given_up(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buffer.server.connect.TIMEOUT_S", 1.0)
    os.kill(server.pid, signal.SIGSTOP)  # connections are still taken, by the kernel
    try:
        with pytest.raises(StoreError, match="does not answer"):
            connect(server.url)
        goes_on = threading.Timer(1.5, os.kill, (server.pid, signal.SIGCONT))
        goes_on.start()
        assert connect(server.url).ping()
        goes_on.join()
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\xff" + SECRET.encode(), "it is not UTF-8 text")]
)
def test_a_password_file_that_can_not_be_read_is_named_with_the_reason(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv(PASSWORD_FILE_VARIABLE, str(file))
    with pytest.raises(
        ConfigError, match=re.escape(f"{PASSWORD_FILE_VARIABLE} = {file} can't be read: {reason}")
    ) as error:
        connect(url_of(server, ""))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_redis_evicts__a_server_that_deletes_keys_by_itself_is_refused_by_runs_and_validate_with_the_fix(
    server: RedisServer, client: redis.Redis, policy: str
) -> None:
    client.config_set("maxmemory-policy", policy)
    try:
        for refused in (connect, lambda url: check_store(BufferConfig(url=url))):
            with pytest.raises(StoreError, match=rf"maxmemory-policy {policy}: .*set it to noeviction") as error:
                refused(server.url)
            assert password_of(server) not in str(error.value)
        with connect(server.url, evicting_ok=True) as inspecting:
            assert inspecting.ping()
    finally:
        client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_a_server_that_keeps_keys_without_a_time_to_live_is_accepted(
    server: RedisServer, client: redis.Redis, policy: str
) -> None:
    client.config_set("maxmemory-policy", policy)
    try:
        assert connect(server.url).ping()
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_an_unreachable_server_is_reported_at_once_with_host_and_port() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port, start = closed.getsockname()[1], time.monotonic()
        with pytest.raises(StoreError, match=f"127.0.0.1:{port}/0 does not answer; check") as error:
            connect(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert time.monotonic() - start < 5
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", f":{SECRET}@127.0.0.1:1", f"redis://:{SECRET}/@127.0.0.1:1"])
def test_a_url_of_another_kind_is_a_config_error_with_the_rule(url: str) -> None:
    with pytest.raises(ConfigError, match=r"buffer\.url = .*(must start with|is not scheme)") as error:
        connect(url)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pa:ss/w@rd@host:1/0", "redis://:***@host:1/0"),
        ("rediss://user:password@host/0", "rediss://user:***@host/0"),
        ("unix:///run/redis.sock?db=0&password=secret", "unix:///run/redis.sock?db=0&password=***"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://driver@host:6379/0", "redis://driver@host:6379/0"),
        ("redis://us/er:secret@host/0", "redis://us/er:***@host/0"),
        ("redis://://secret@host/0", "redis://:***@host/0"),
    ],
)
def test_redact_hides_the_password_and_nothing_else(url: str, shown: str) -> None:
    assert redact(url) == shown
