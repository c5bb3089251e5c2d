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
        "--run", help="A run's folder; more of them to compare. Its neighbours are found.", show_default=False
    ),
]
Url = Annotated[str | None, typer.Option("--redis", help="Address of a server; with --name.", show_default=False)]
Name = Annotated[str | None, typer.Option("--name", help="The buffer's name on it.", show_default=False)]


def dashboard(
    run: Folders = None,
    url: Url = None,
    name: Name = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Beyond loopback a token is needed.")] = "",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="0: any free one. Default: 8710, or any free one.")
    ] = None,
    public_host: Annotated[
        list[str] | None, typer.Option("--public-host", help="A name that browsers reach it by.", show_default=False)
    ] = None,
    inherited: Annotated[int | None, typer.Option("--socket", hidden=True)] = None,
) -> None:
    """Serve one page on buffer, rewards, posterior and samples of a run, live or finished. It only reads."""
    from deploy.dashboard.web.security import TOKEN_VARIABLE, access
    from deploy.dashboard.web.server import serve
    from deploy.dashboard.web.sockets import LOOPBACK, address, listen

    runs = _runs(run or [], url, name)
    listening = listen(host or LOOPBACK, port) if inherited is None else socket.socket(fileno=inherited)
    bound = listening.getsockname()
    rules = access(bound[0], bound[1], os.environ.get(TOKEN_VARIABLE), tuple(public_host or ()))
    if inherited is None:
        console.print(f"Dashboard: {address(listening)}   (Ctrl-C ends it)", soft_wrap=True)
        if rules.token and not os.environ.get(TOKEN_VARIABLE):
            console.print(f"Token: {escape(rules.token)}   (set {TOKEN_VARIABLE} to choose it)", soft_wrap=True)
    else:
        os.nice(10)  # the run goes first
    serve(runs, rules, listening, with_parent=inherited is not None)


def report(
    run: Annotated[Path, typer.Option("--run", help="The run's folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Default: report.html in the run's folder.")] = None,
) -> None:
    """Write one self-contained HTML file with the run's plots, to send to a colleague."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.report.html_report import write_report

    folder = RunFolder.open(run)
    path = out or folder.path / "report.html"
    write_report(folder.path, path)
    console.print(f"Written: {escape(str(path))}", soft_wrap=True)


def _runs(folders: list[Path], url: str | None, name: str | None) -> "Runs":
    """What to show. ConfigError where nothing is named, or a folder is no run."""
    from buffer.store.keys import Keys
    from deploy.artifacts.run_folder import RunFolder
    from deploy.dashboard.data.redis_poller import RedisPoller
    from deploy.dashboard.data.run_index import Runs

    opened = [RunFolder.open(folder) for folder in folders]
    if not opened and not url:
        raise ConfigError("dashboard needs --run with a run's folder, or --redis with --name of a buffer.")
    if url and not (name or opened):
        raise ConfigError("--redis needs --name too: which buffer on that server. A run's folder has it in `name`.")
    live = None
    if url:
        chosen = name or opened[0].name
        Keys(chosen)  # refuses a name that is none
        capacity = opened[0].read_config().get("buffer", {}).get("capacity", 0) if opened else 0
        live = RedisPoller(url, chosen, int(capacity))
    return Runs([folder.path for folder in opened], live)
