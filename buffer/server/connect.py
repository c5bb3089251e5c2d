"""A client that has been answered: connect once, learn at once what is wrong, then survive short outages."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from buffer.errors import ConfigError, StoreError

PASSWORD_VARIABLE = "TRIBUTARY_REDIS_PASSWORD"
"""Environment variable with the password, for a URL that carries none."""
PASSWORD_FILE_VARIABLE = "TRIBUTARY_REDIS_PASSWORD_FILE"
"""The same by the path of a file, such as a container's secret; read where the other is unset."""
TIMEOUT_S = 5.0
"""For one connection attempt or one reply, s."""
PROBES = 3
"""Of a server that does not answer in time, as on a machine where all starts at once. One that refuses has one."""
LOADING_LIMIT_S = 120.0
"""How long a server may read its files before we give up, s."""
RETRIES = 30
"""Of a call, with waits of at most 1 s in between: some 25 s of outage are survived, such as a restart that reads a
large append-only file."""
SCHEMES = ("redis://", "rediss://", "unix://")


class _PatientPool(redis.ConnectionPool):
    """redis-py repeats what fails while it connects and while it calls, but not the look at a fresh connection between
    the two: a server that closes it then would end the call."""

    def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        """A connection that is ready."""
        retry: Retry = self.connection_kwargs["retry"]
        return retry.call_with_retry(super().get_connection, lambda error: None)


def connect(url: str) -> redis.Redis:
    """A client for `url` that retries for some seconds when the server is away; it has answered one PING.

    Connect after a fork or in the Ray actor itself: a client is not for two processes.
    Raise ConfigError for a malformed URL, StoreError when nobody answers or the password is refused.
    """
    if not url.startswith(SCHEMES):
        raise ConfigError(f"buffer.url = {redact(url)!r} must start with {', '.join(SCHEMES)}; correct the URL")
    with _client(url, Retry(NoBackoff(), 0)) as probe:
        wait_until_ready(probe, redact(url))
    return _client(url, Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES))


def redact(url: str) -> str:
    """The URL without its password, for messages and logs."""
    without_userinfo = re.sub(r"^((?:\w+://)?+[^:]*):.*@", r"\1:***@", url)  # ?+: not the scheme's own colon
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without_userinfo)


def wait_until_ready(client: redis.Redis, name: str, limit_s: float = LOADING_LIMIT_S) -> None:
    """One PING, repeated while the server says that it is still loading, and up to PROBES times when it is too slow.

    `name` is the redacted URL.

    Raise StoreError with the cause and the remedy.
    """
    deadline, probes = time.monotonic() + limit_s, PROBES
    while True:
        try:
            client.ping()
            return
        except redis.BusyLoadingError as error:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"Redis at {name} is still loading its files after {limit_s:g} s; try later"
                ) from error
            time.sleep(0.2)
        except redis.RedisError as error:
            probes -= 1
            if isinstance(error, redis.TimeoutError) and probes > 0:
                continue
            raise StoreError(f"Redis at {name} {_reason(error)}") from error


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn what redis-py raises in a block, or a decorated function, into a StoreError that says what failed."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise StoreError(
            f"{doing}: Redis is at its maxmemory; raise it or lower buffer.capacity ({_said(error)})"
        ) from error
    except redis.RedisError as error:
        raise StoreError(f"{doing}: Redis {_reason(error)}") from error


def _said(error: redis.RedisError) -> str:
    """The server's words, without the command that redis-py puts before them: it may be a record of ours."""
    return str(error).rpartition("of pipeline caused error: ")[2]


def _reason(error: redis.RedisError) -> str:
    """What went wrong and what to do, as the rest of a sentence."""
    text = _said(error)
    if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return (
            f"refuses the password; set {PASSWORD_VARIABLE} (or {PASSWORD_FILE_VARIABLE}, a file's path), or write it "
            f"into buffer.url ({text})"
        )
    # The servers that have them word denials in scripts thus: Valkey, and Redis.
    denied = ("ACL failure in script", "The user executing the script can't")
    if isinstance(error, redis.exceptions.NoPermissionError) or any(words in text for words in denied):
        return (
            "does not let the user of buffer.url do this; name the user for this role, or give it the command and keys "
            f"that deploy/redis/users.acl has for it ({text})"
        )
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"does not answer; check that it runs and that host and port are right ({text})"
    return f"answers with an error: {text}"


def _password() -> str | None:
    """The environment's, or that of the file which it names. Raise ConfigError where there is no such text."""
    file = os.environ.get(PASSWORD_FILE_VARIABLE)
    if PASSWORD_VARIABLE in os.environ or not file:
        return os.environ.get(PASSWORD_VARIABLE)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:  # not chained: its text may quote a byte of the password
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(
            f"{PASSWORD_FILE_VARIABLE} = {file} can't be read: {reason}. Name a file that holds the password and that "
            "this user may read."
        ) from None


def _client(url: str, retry: Retry) -> redis.Redis:
    password = _password()
    # from_url lets what the URL says win over these arguments, so a password in the URL stays.
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
            f"buffer.url = {redact(url)!r} is no scheme://[[user]:password@]host:port/db; percent-encode special "
            "characters of the password"
        ) from None
