"""Restarts a run's own server when it dies: same folder, port and password, so that every client goes on.

consumes   nothing
produces   a server that answers again, within a second for a small append-only file
waits for  the server's process to end, or `stop`
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from buffer.errors import TributaryError
from buffer.restart_budget import RestartBudget
from buffer.server.redis_server import RedisServer

RETRY_S = 2.0
"""Time between two tries to start it, s."""
MAX_RESTARTS = 20
"""A server that dies more often within an hour has a cause that a restart does not fix."""


class Supervisor:
    """Watches one server from a thread of its own."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        """`folder` is the server's. Leaving the context stops the server."""
        self._server = server
        self._folder = folder
        self._stopping = threading.Event()
        self.restarts = 0
        self.failure: str | None = None
        """The reason why the server is not there, for the moment or for good."""
        self._thread = threading.Thread(target=self._watch, name="redis-supervisor", daemon=True)

    @property
    def pid(self) -> int:
        """Process id of the current server."""
        return self._server.pid

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.stop()
        self._thread.join()
        self._server.stop()  # one that was being started meanwhile

    def _watch(self) -> None:
        budget = RestartBudget(MAX_RESTARTS)
        while True:
            code = self._server.wait()
            if self._stopping.is_set():
                return
            if not budget.spend():
                self.failure = f"it died {MAX_RESTARTS + 1} times within an hour, last with exit code {code}"
                return
            while not self._stopping.is_set():
                try:
                    self._server = RedisServer.start(self._folder, self._server.port)
                except TributaryError as error:  # a full disk may get room again, within the patience of the clients
                    self.failure = str(error)
                    self._stopping.wait(RETRY_S)
                else:
                    self.failure = None
                    self.restarts += 1
                    break
