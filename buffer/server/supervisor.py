"""Start a run's own server again when it dies: same folder, port and password, so that every client just goes on.

consumes   nothing
produces   a server that answers again, within a second for a small append-only file
waits for  the server's process to end, or `stop`
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from buffer.errors import TributaryError
from buffer.server.redis_server import RedisServer

MOST_RESTARTS = 20
"""A server that dies more often has a reason that starting it again does not mend."""


class Supervisor:
    """Watches one server from a thread of its own, which lives as long as the server may."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        """`folder` is the server's. Stops the server with itself."""
        self._server = server
        self._folder = folder
        self._stopping = threading.Event()
        self.restarts = 0
        self.gave_up: str | None = None
        """Why it was not started again."""
        self._thread = threading.Thread(target=self._watch, name="redis-supervisor", daemon=True)

    @property
    def pid(self) -> int:
        """Process id of the server that runs now."""
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
        while True:
            code = self._server.wait()
            if self._stopping.is_set():
                return
            if self.restarts == MOST_RESTARTS:
                self.gave_up = f"it died {self.restarts + 1} times, last with exit code {code}"
                return
            try:
                self._server = RedisServer.start(self._folder, self._server.port)
            except TributaryError as error:
                self.gave_up = str(error)
                return
            self.restarts += 1
