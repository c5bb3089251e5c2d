"""`tributary dashboard` and `tributary report`: look at runs, live or finished."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from buffer.errors import ConfigError
from deploy.formatting import console

if TYPE_CHECKING:
    from deploy.dashboard.data.run_index import Runs

Folders = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Folder of a run; repeat it to compare runs. The page also offers the other runs next to it.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Address of a Redis server; needs --name.", show_default=False),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the buffer on that server.", show_default=False)
]


def dashboard(
    run: Folders = None,
    url: Url = None,
    name: Name = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on. Default: 127.0.0.1, without a token on a machine of one user.",
        ),
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            min=0,
            max=65535,
            help="Port to listen on; 0 takes any free port. Default: 8710, or a free port if 8710 is in use.",
        ),
    ] = None,
    public_host: Annotated[
        list[str] | None,
        typer.Option(
            "--public-host",
            metavar="NAME",
            help="Host name under which browsers reach the page, such as a proxy's. Repeat it for several.",
            show_default=False,
        ),
    ] = None,
    inherited: Annotated[int | None, typer.Option("--socket", hidden=True)] = None,
) -> None:
    """Serve a web page about runs, live or finished: buffer, rewards, posterior, samples. It only reads."""
    from deploy.dashboard.web.security import TOKEN_VARIABLE, access, shown_token, token_for_loopback
    from deploy.dashboard.web.server import serve
    from deploy.dashboard.web.sockets import LOOPBACK, address, listen

    runs = _runs(run or [], url, name)
    listener = listen(host or LOOPBACK, port) if inherited is None else socket.socket(fileno=inherited)
    bound = listener.getsockname()
    rules = access(bound[0], bound[1], token_for_loopback(), tuple(public_host or ()))
    if inherited is None:
        token = shown_token(rules.token)
        console.print(f"Dashboard: {escape(address(listener, token))}   (Ctrl-C stops it)", soft_wrap=True)
        if token:
            console.print(f"Token: {escape(token)}   (set {TOKEN_VARIABLE} to choose it)", soft_wrap=True)
    else:
        os.nice(10)  # the run has priority
    serve(runs, rules, listener, with_parent=inherited is not None)


def report(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write. Default: report.html in the run's folder."),
    ] = None,
) -> None:
    """Write one self-contained HTML file with the plots of a run, to send to a colleague."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.report.html_report import write_report

    folder = RunFolder.open(run)
    path = out or folder.path / "report.html"
    write_report(folder.path, path)
    console.print(f"Written: {escape(str(path))}", soft_wrap=True)


def _runs(folders: list[Path], url: str | None, name: str | None) -> "Runs":
    """The runs to show. ConfigError if none is given, or a folder does not contain a run."""
    from buffer.store.keys import Keys
    from deploy.artifacts.run_folder import RunFolder
    from deploy.dashboard.data.redis_poller import RedisPoller
    from deploy.dashboard.data.run_index import Runs

    opened = [RunFolder.open(folder) for folder in folders]
    if not opened and not url:
        raise ConfigError("dashboard needs --run with the folder of a run, or --redis and --name of a buffer.")
    if url and not (name or opened):
        raise ConfigError(
            "--redis also needs --name, the name of the buffer on that server: see the file `name` in the run's folder."
        )
    live = None
    if url:
        buffer_name = name or opened[0].name
        Keys(buffer_name)  # raises ConfigError for an invalid name
        capacity = opened[0].read_config().get("buffer", {}).get("capacity", 0) if opened else 0
        live = RedisPoller(url, buffer_name, int(capacity))
    return Runs([folder.path for folder in opened], live)
