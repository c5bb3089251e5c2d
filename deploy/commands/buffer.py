"""`tributary buffer ...`: inspect, check, export, import and clear a replay buffer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import redis
import typer
from rich.markup import escape

from buffer.archive import decode_scored, export_archive, import_archive
from buffer.config import BufferAdvanced, BufferConfig
from buffer.errors import ConfigError, RecordError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect, store_errors
from buffer.server.redis_server import RedisServer, repair_folder, url_of_running
from buffer.store.check import findings, snapshot
from buffer.store.keys import Keys
from buffer.store.repair import repair
from buffer.store.settings import StoreSettings
from deploy.commands.buffer_table import stats_table, stats_values
from deploy.formatting import console

buffer_app = typer.Typer(no_args_is_help=True, help="Inspect, check, export, import and clear a replay buffer.")

Run = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Folder of the run that the buffer belongs to.", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Address of a Redis server; needs --name.", show_default=False),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the buffer on that server.", show_default=False)
]


class Opened(NamedTuple):
    """A buffer and the client to its server."""

    client: redis.Redis
    buffer: ReplayBuffer


@buffer_app.command()
def stats(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the statistics of a buffer: size, arrivals, evictions, rewards, staleness, priorities."""
    with _opened(run, url, name, reads=True) as (_, buffer):
        statistics, quarantine = buffer.stats(), buffer.quarantined()
    if as_json:
        typer.echo(json.dumps(stats_values(statistics, quarantine)))
    else:
        console.print(stats_table(statistics, quarantine))


@buffer_app.command()
def check(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild the indexes and fix a run's damaged file. No other process may use the buffer meanwhile.",
        ),
    ] = False,
) -> None:
    """Check the indexes of a buffer against its records. The exit code is 1 if they are inconsistent."""
    with _opened(run, url, name, reads=not fix, fix=fix) as opened:
        problems = _problems(opened)
        if problems and fix:
            _show(problems)
            _repair(opened)
            problems = _problems(opened)
        size = opened.buffer.stats().size
    _show(problems)
    if problems:
        raise typer.Exit(1)
    console.print(f"consistent: {size:,} trajectories")


@buffer_app.command(name="export")
def export_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="File to write. An existing file is replaced only when the new one is complete."
        ),
    ],
    run: Run = None,
    url: Url = None,
    name: Name = None,
) -> None:
    """Write all trajectories and their draw weights to a file."""
    with _opened(run, url, name, reads=True) as (client, buffer):
        result = export_archive(client, buffer, file)
    omitted = f"; {result.unreadable:,} unreadable ones were omitted" if result.unreadable else ""
    console.print(f"{result.written:,} trajectories written to {escape(str(file))}{omitted}")


@buffer_app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `tributary buffer export` wrote.")],
    run: Run = None,
    url: Url = None,
    name: Name = None,
) -> None:
    """Add the trajectories of a file, under the rules of this buffer. The whole file is checked first."""
    with _opened(run, url, name) as (_, buffer):
        result = import_archive(buffer, file)
    refused = ", ".join(f"{number:,} {reason}" for reason, number in sorted(result.refused.items())) or "none"
    console.print(f"{result.added:,} added, {result.duplicates:,} duplicates, refused: {refused}")


@buffer_app.command()
def clear(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete all trajectories. Processes that use the buffer get an error with their next call."""
    with _opened(run, url, name) as (_, buffer):
        size = buffer.stats().size
        if not yes and not typer.confirm(f"Delete {size:,} trajectories?"):
            raise typer.Exit(1)
        buffer.clear()
    console.print(f"{size:,} trajectories deleted")


@contextmanager
def _opened(
    run: Path | None, url: str | None, name: str | None, reads: bool = False, fix: bool = False
) -> Iterator[Opened]:
    """The buffer of a run, or the buffer `name` on the server `url`.

    A run that trains has a server already, which only commands that `reads` may use; otherwise one is started that
    runs as long as the command.
    """
    if run is not None and url is None and name is None:
        with _opened_run(run, reads, fix) as opened:
            yield opened
    elif run is None and url is not None and name is not None:
        with connect(url, evicting_ok=True) as client:
            yield Opened(client, ReplayBuffer(client, _stored_config(client, name), name))
    else:
        raise ConfigError("the buffer is not specified. Give --run DIR, or --redis URL and --name NAME.")


@contextmanager
def _opened_run(run: Path, reads: bool, fix: bool) -> Iterator[Opened]:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config

    folder = RunFolder.open(run)
    config = parse_config(folder.read_config(), source=f"{run}/config.toml").buffer
    if config.url:
        if ":***@" in config.url:
            raise ConfigError(
                f"{run}/config.toml does not contain the password of {config.url}. Give the address instead: "
                f"--redis URL --name {folder.name}"
            )
        with connect(config.url, evicting_ok=True) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))
        return
    if reads and folder.is_locked():  # the run trains: its own server is up
        with _connected(url_of_running(folder.buffer), run) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))
        return
    with folder.lock():
        if fix:
            _fix_file(folder.buffer)
        with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))


def _connected(url: str, run: Path) -> redis.Redis:
    """A client of the server of a run that trains."""
    try:
        return connect(url, evicting_ok=True)
    except StoreError as error:
        raise StoreError(
            f"a process trains in {run}, and the run's own Redis server listens on the loopback of that machine only: "
            f"run this command there, or try again if the run is just starting ({error})"
        ) from error


def _fix_file(folder: Path) -> None:
    result = repair_folder(folder)
    if result.backup:
        console.print(
            f"removed the last {result.cut_bytes:,} bytes of {escape(str(result.file))}, which were not a complete "
            f"command; {result.kept_bytes:,} bytes remain, and the damaged file is kept as {escape(result.backup.name)}"
        )


@store_errors("reading the buffer's settings")
def _stored_config(client: redis.Redis, name: str) -> BufferConfig:
    """The settings stored with a buffer."""
    settings_json: Any = client.hget(Keys(name).counters, "settings")
    if settings_json is None:
        raise ConfigError(
            f"there is no buffer called {name!r} on this server. The file `name` in a run's folder has the right name."
        )
    try:
        stored = StoreSettings.model_validate_json(settings_json)
    except ValueError as error:
        raise StoreError(
            f"the settings of buffer {name!r} can't be read: another release of Tributary wrote them. Use that one."
        ) from error
    advanced = BufferAdvanced(
        sampler="highest_reward" if stored.rank_by_reward else "prioritized",
        evict=stored.evict,
        per_prompt_quota=stored.per_prompt_quota,
        max_times_sampled=stored.max_times_sampled,
        max_staleness=stored.max_staleness,
    )
    return BufferConfig(capacity=stored.capacity, min_size_to_sample=1, advanced=advanced)


def _problems(opened: Opened) -> list[str]:
    with store_errors("checking the buffer"):
        return findings(snapshot(opened.client, opened.buffer.store.keys))


def _repair(opened: Opened) -> None:
    store = opened.buffer.store
    with store_errors("repairing the buffer"):
        before = snapshot(opened.client, store.keys)
        orphans = repair(opened.client, store.keys, before, store.settings.ranked_by)
    readable = []
    for record in orphans:
        try:
            readable.append(decode_scored(record))
        except RecordError:
            continue
    added = opened.buffer.add(readable).added if readable else 0
    console.print(f"repaired; of {len(orphans):,} records without an item {added:,} were added again")


def _show(problems: list[str]) -> None:
    for problem in problems:
        console.print(f"[red]wrong[/red]  {escape(problem)}")
