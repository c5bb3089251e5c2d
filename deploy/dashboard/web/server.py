"""The dashboard's web server: a process of its own that only reads, and dies with whoever started it.

consumes   requests; the run's history, and Redis where it is told of one
produces   the page, answers, streams of news
waits for  requests
unblocked by  browsers
"""

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from deploy.dashboard.data.run_index import Runs
from deploy.dashboard.web.api import Api, Json
from deploy.dashboard.web.security import Access, Guard, is_loopback

STATIC = Path(__file__).parent.parent / "static"


def application(runs: Runs, access: Access, stopping: threading.Event, squeeze: bool = False) -> Starlette:
    """The ASGI application; `squeeze` compresses answers, which pays on a network and costs on loopback."""

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    async def unhappy(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = error.detail if error.detail not in ("Not Found", "Method Not Allowed") else _words(request, error)
        return Json({"error": said}, error.status_code, headers=error.headers)

    async def broken(request: Request, error: Exception) -> Response:
        return Json({"error": f"the dashboard failed ({type(error).__name__}); its terminal says more"}, 500)

    middleware = [Middleware(Guard, access=access)]
    if squeeze:
        middleware.append(Middleware(GZipMiddleware, minimum_size=1000, compresslevel=4))
    return Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            *Api(runs, access, stopping).routes(),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: unhappy, Exception: broken},
    )


def serve(runs: Runs, access: Access, listening: socket.socket, with_parent: bool = False) -> None:
    """Answer on a bound socket until a signal comes.

    `with_parent` also ends when stdin does: whoever holds its other end is gone then, however it died.
    """
    stopping, host = threading.Event(), listening.getsockname()[0]
    config = uvicorn.Config(
        application(runs, access, stopping, squeeze=not is_loopback(host)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    server = _Server(config, stopping)
    if with_parent:
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    try:
        if runs.live:
            runs.live.start()
        server.run(sockets=[listening])
    finally:
        if runs.live:
            runs.live.stop()
        runs.close()
        listening.close()


class _Server(uvicorn.Server):
    """Tells open streams to end first: they would hold up the end of everything."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def _end_with_stdin(server: _Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.handle_exit(signal.SIGTERM, None)


def _words(request: Request, error: HTTPException) -> Any:
    if error.status_code == 405:
        return f"{request.method} is not for {request.url.path}; docs/dashboard-api.md lists the routes"
    return f"there is nothing at {request.url.path}; docs/dashboard-api.md lists the routes"
