"""Connections to Redis: report a wrong URL or password at once, then survive short outages."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from buffer.errors import ConfigError, StoreError, WaitTimeout
from buffer.full_disk import LIMIT_S, POLL_S
from buffer.named_wait import NamedWait

T = TypeVar("T")
log = logging.getLogger("tributary")
PASSWORD_VARIABLE = "TRIBUTARY_REDIS_PASSWORD"
"""Environment variable with the password, for a URL that carries none."""
PASSWORD_FILE_VARIABLE = "TRIBUTARY_REDIS_PASSWORD_FILE"
"""Environment variable with the path of a file that holds the password; read where the other is unset."""
TIMEOUT_S = 5.0
"""Timeout of one connection attempt and of one reply, s."""
PROBES = 3
"""Attempts to reach a server that does not answer in time, as on a busy machine. One that refuses has one."""
LOADING_LIMIT_S = 120.0
"""Time for a server to read its files, s."""
RETRIES = 30
"""Retries of a call, at most 1 s apart: clients survive an outage of some 25 s, such as a restart that reads a large
append-only file."""
PING = "_send_ping"
"""The function of a connection that checks it before a call."""
EVICTION_FIX = "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in the server's configuration)"
SCHEMES = ("redis://", "rediss://", "unix://")


class _PatientPool(redis.ConnectionPool):
    """Also retries the check of a fresh connection, which redis-py does not, unlike the connection and the call itself:
    a server that closes the connection then would end the call."""

    def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        """A connection that is ready."""
        retry: Retry = self.connection_kwargs["retry"]
        return retry.call_with_retry(super().get_connection, lambda error: None)


class _PatientRetry(Retry):
    """Also repeats a call that the server refuses because it can't write its append-only file. It refuses a PING too,
    whose question is answered by that."""

    def call_with_retry(self, do: Callable[[], T], *arguments: Any, **options: Any) -> T:
        """The result of `do`. The error of the last attempt, of a full disk after LIMIT_S."""
        wait: NamedWait | None = None
        while True:
            try:
                return super().call_with_retry(do, *arguments, **options)
            except redis.ResponseError as error:
                if not _disk_is_full(error):
                    raise
                if getattr(do, "__name__", "") == PING:
                    return None  # type: ignore[return-value]
                if wait is None:
                    wait = NamedWait("Redis waits for room on its disk", LIMIT_S, lambda: "free some space")
                    log.warning("%s", wait.sentence())
                try:
                    wait.check()
                except WaitTimeout:
                    raise error from None
                time.sleep(POLL_S)  # the server takes writes again by itself once there is room


def _disk_is_full(error: redis.ResponseError) -> bool:
    """True for what the server answers to a write while there is no room for its append-only file: to a call, from
    inside a script, or in place of a transaction."""
    text = str(error)
    return "MISCONF" in text and ("No space left" in text or "quota exceeded" in text)


def connect(url: str, evicting_ok: bool = False) -> redis.Redis:
    """A client for `url` that retries for some seconds when the server is unreachable; it has answered one PING.

    Connect after a fork or in the Ray actor itself: processes must not share a client.
    Raise ConfigError for a malformed URL, StoreError when the server does not answer, refuses the password, or evicts
    keys on its own; `evicting_ok`: for a client that only inspects a buffer.
    """
    if not url.startswith(SCHEMES):
        raise ConfigError(f"buffer.url = {redact(url)!r} must start with {', '.join(SCHEMES)}; correct the URL")
    with _client(url, Retry(NoBackoff(), 0)) as probe:
        wait_until_ready(probe, redact(url))
        if not evicting_ok:
            with store_errors(f"connecting to {redact(url)}"):
                _refuse_eviction(probe, redact(url))
    return _client(url, _PatientRetry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES))


def redact(url: str) -> str:
    """The URL without its password, for messages and logs."""
    without_userinfo = re.sub(r"^((?:\w+://)?+[^:]*):.*@", r"\1:***@", url)  # ?+: not the scheme's own colon
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without_userinfo)


def wait_until_ready(client: redis.Redis, name: str, limit_s: float = LOADING_LIMIT_S) -> None:
    """Send one PING, repeated while the server is loading its files, and up to PROBES times when it is too slow.

    `name` is the redacted URL. Raise StoreError with the cause and the fix.
    """
    deadline, probes = time.monotonic() + limit_s, PROBES
    while True:
        try:
            client.ping()
            return
        except redis.BusyLoadingError as error:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"Redis at {name} is still loading its files after {limit_s:g} s; try again later"
                ) from error
            time.sleep(0.2)
        except redis.RedisError as error:
            if isinstance(error, redis.ResponseError) and _disk_is_full(error):
                return
            probes -= 1
            if isinstance(error, redis.TimeoutError) and probes > 0:
                continue
            raise StoreError(f"Redis at {name} {_cause_and_fix(error)}") from error


def _refuse_eviction(client: redis.Redis, name: str) -> None:
    """Raise StoreError where the server deletes keys of a buffer when its memory is full; `name`: the redacted URL.

    The policies volatile-* take keys with a time to live only, such as heartbeats. A user without the right to INFO
    can't learn the policy: the `driver`, whose connection is a run's first, has it.
    """
    try:
        policy = str(client.info("memory").get("maxmemory_policy", "noeviction"))
    except (redis.ResponseError, redis.TimeoutError):  # no right to INFO, no such command, or a busy server
        return
    if policy != "noeviction" and not policy.startswith("volatile-"):
        raise StoreError(
            f"Redis at {name} has maxmemory-policy {policy}: at its maxmemory it deletes keys of the buffer, which "
            f"ends the run and loses its data; {EVICTION_FIX}, or name another server in buffer.url"
        )


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Convert errors of redis-py in a block or a decorated function to a StoreError that begins with `doing`."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise StoreError(
            f"{doing}: Redis is at its maxmemory; raise it or lower buffer.capacity ({_server_message(error)})"
        ) from error
    except redis.RedisError as error:
        raise StoreError(f"{doing}: Redis {_cause_and_fix(error)}") from error


def _server_message(error: redis.RedisError) -> str:
    """The server's message, without the command that redis-py puts before it: that may hold a record."""
    return str(error).rpartition("of pipeline caused error: ")[2]


def _cause_and_fix(error: redis.RedisError) -> str:
    """The end of a sentence that begins with "Redis"."""
    text = _server_message(error)
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return (
            f"refuses the password; set {PASSWORD_VARIABLE} (or {PASSWORD_FILE_VARIABLE}, a file's path), or write it "
            f"into buffer.url ({text})"
        )
    # The wording of Valkey and of Redis for a denial inside a script.
    denied = ("ACL failure in script", "The user executing the script can't")
    if isinstance(error, redis.exceptions.NoPermissionError) or any(words in text for words in denied):
        return (
            "does not let the user of buffer.url do this; use the user of this role, or grant it the commands and keys "
            f"that deploy/redis/users.acl lists for it ({text})"
        )
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"does not answer; check that it runs and that host and port are right ({text})"
    if isinstance(error, redis.ResponseError) and _disk_is_full(error):
        return f"has no room on its disk; free some space ({text})"
    hint = f" (if the server's maxmemory-policy evicts keys: {EVICTION_FIX} and clear the buffer)"
    return f"answers with an error: {text}{hint if 'user_script' in text else ''}"


def _password() -> str | None:
    """The password in the environment, or in the file that it names. Raise ConfigError for an unreadable file."""
    file = os.environ.get(PASSWORD_FILE_VARIABLE)
    if PASSWORD_VARIABLE in os.environ or not file:
        return os.environ.get(PASSWORD_VARIABLE)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:  # not chained: its text may quote a byte of the password
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"{PASSWORD_FILE_VARIABLE} = {file} can't be read: {reason}. Name a file that holds the password and is "
            "readable by this user."
        ) from None


def _client(url: str, retry: Retry) -> redis.Redis:
    password = _password()
    # In from_url the URL overrides these arguments, so a password in the URL wins.
    try:
        pool = _PatientPool.from_url(
            url,
            password=password,
            retry=retry,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            health_check_interval=15,
            decode_responses=False,
        )
        return redis.Redis.from_pool(pool)
    except ValueError:  # not chained: its text may quote a piece of the password
        raise ConfigError(
            f"buffer.url = {redact(url)!r} is not scheme://[[user]:password@]host:port/db; percent-encode special "
            "characters of the password"
        ) from None
