"""The dashboard's web server: a separate, read-only process that ends with the process that started it.

consumes   requests; the run's history, and Redis if its address is given
produces   the page, API responses, event streams
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


def application(runs: Runs, access: Access, stopping: threading.Event, compress: bool = False) -> Starlette:
    """The ASGI application; `compress` gzips responses, which helps on a network and only costs on loopback."""

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        generic = error.detail in ("Not Found", "Method Not Allowed")
        return Json(
            {"error": _routing_error(request, error) if generic else error.detail},
            error.status_code,
            headers=error.headers,
        )

    async def internal_error(request: Request, error: Exception) -> Response:
        return Json({"error": f"the dashboard failed ({type(error).__name__}); its terminal has the traceback"}, 500)

    middleware = [Middleware(Guard, access=access)]
    if compress:
        middleware.append(Middleware(GZipMiddleware, minimum_size=1000, compresslevel=4))
    return Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            *Api(runs, access, stopping).routes(),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: http_error, Exception: internal_error},
    )


def serve(runs: Runs, access: Access, listener: socket.socket, with_parent: bool = False) -> None:
    """Serve on a bound socket until a signal arrives.

    `with_parent` also stops at the end of stdin: the parent holds its other end, so it closes however the parent dies.
    """
    stopping, host = threading.Event(), listener.getsockname()[0]
    config = uvicorn.Config(
        application(runs, access, stopping, compress=not is_loopback(host)),
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
        threading.Thread(target=_stop_at_stdin_end, args=(server,), daemon=True).start()
    try:
        if runs.redis_poller:
            runs.redis_poller.start()
        server.run(sockets=[listener])
    finally:
        if runs.redis_poller:
            runs.redis_poller.stop()
        runs.close()
        listener.close()


class _Server(uvicorn.Server):
    """Ends open streams first: uvicorn waits for them before it stops."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def _stop_at_stdin_end(server: _Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.handle_exit(signal.SIGTERM, None)


def _routing_error(request: Request, error: HTTPException) -> str:
    if error.status_code == 405:
        return f"{request.url.path} does not accept {request.method}; docs/dashboard-api.md lists the routes"
    return f"{request.url.path} does not exist; docs/dashboard-api.md lists the routes"
