"""`tributary buffer ...`: look at a replay buffer, check it, keep it in a file, empty it."""

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
from buffer.server.redis_server import RedisServer, mend_folder
from buffer.store.check import findings, snapshot
from buffer.store.keys import Keys
from buffer.store.repair import repair
from buffer.store.settings import StoreSettings
from deploy.commands.buffer_table import stats_table, stats_values
from deploy.formatting import console

buffer_app = typer.Typer(no_args_is_help=True, help="A run's replay buffer: look at it, check it, keep it, move it.")

Run = Annotated[Path | None, typer.Option("--run", help="The run's folder.", show_default=False)]
Url = Annotated[str | None, typer.Option("--redis", help="Address of a server; with --name.", show_default=False)]
Name = Annotated[str | None, typer.Option("--name", help="The buffer's name on it.", show_default=False)]


class Opened(NamedTuple):
    """A buffer and the client to its server."""

    client: redis.Redis
    buffer: ReplayBuffer


@buffer_app.command()
def stats(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What is in it, what came and went, rewards, staleness, priorities."""
    with _opened(run, url, name) as (_, buffer):
        found, quarantine = buffer.stats(), buffer.quarantined()
    if as_json:
        typer.echo(json.dumps(stats_values(found, quarantine)))
    else:
        console.print(stats_table(found, quarantine))


@buffer_app.command()
def check(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    mend: Annotated[
        bool,
        typer.Option(
            "--repair", help="Build the indexes anew, and mend a run's damaged file. Nobody else may use it now."
        ),
    ] = False,
) -> None:
    """Recount every index from one snapshot. Exit code 1 where something is wrong."""
    with _opened(run, url, name, mend) as opened:
        wrong = _findings(opened)
        if wrong and mend:
            _show(wrong)
            _repair(opened)
            wrong = _findings(opened)
        size = opened.buffer.stats().size
    _show(wrong)
    if wrong:
        raise typer.Exit(1)
    console.print(f"in order: {size:,} trajectories")


@buffer_app.command(name="export")
def export_(
    file: Annotated[Path, typer.Argument(help="Where to. Replaced only when all is written.")],
    run: Run = None,
    url: Url = None,
    name: Name = None,
) -> None:
    """Write all trajectories with their draw weights to a file."""
    with _opened(run, url, name) as (client, buffer):
        done = export_archive(client, buffer, file)
    beside = f"; {done.unreadable:,} unreadable ones were left out" if done.unreadable else ""
    console.print(f"{done.written:,} trajectories written to {escape(str(file))}{beside}")


@buffer_app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    run: Run = None,
    url: Url = None,
    name: Name = None,
) -> None:
    """Add the trajectories of a file, under the buffer's own rules. All of it is checked first."""
    with _opened(run, url, name) as (_, buffer):
        done = import_archive(buffer, file)
    refused = ", ".join(f"{number:,} {reason}" for reason, number in sorted(done.refused.items())) or "none"
    console.print(f"{done.added:,} added, {done.duplicates:,} were there already, refused: {refused}")


@buffer_app.command()
def clear(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Forget everything. A process that uses it gets an error with its next call."""
    with _opened(run, url, name) as (_, buffer):
        size = buffer.stats().size
        if not yes and not typer.confirm(f"Forget {size:,} trajectories?"):
            raise typer.Exit(1)
        buffer.clear()
    console.print(f"{size:,} trajectories forgotten")


@contextmanager
def _opened(run: Path | None, url: str | None, name: str | None, mend: bool = False) -> Iterator[Opened]:
    """The buffer of a run, on a server of its own for as long as the command takes; or the one that is named."""
    if run is not None and url is None and name is None:
        with _of_run(run, mend) as opened:
            yield opened
    elif run is None and url is not None and name is not None:
        with connect(url) as client:
            yield Opened(client, ReplayBuffer(client, _kept_config(client, name), name))
    else:
        raise ConfigError("say which buffer: --run DIR, or --redis URL and --name NAME.")


@contextmanager
def _of_run(run: Path, mend: bool) -> Iterator[Opened]:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config

    folder = RunFolder.open(run)
    config = parse_config(folder.read_config(), source=f"{run}/config.toml").buffer
    if config.url:
        if ":***@" in config.url:
            raise ConfigError(
                f"{run}/config.toml does not keep the password of {config.url}. Give the address: "
                f"--redis URL --name {folder.name}"
            )
        with connect(config.url) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))
        return
    # The run's own server runs while the run does; its folder is locked then.
    with folder.lock():
        if mend:
            _mend_file(folder.buffer)
        with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))


def _mend_file(folder: Path) -> None:
    done = mend_folder(folder)
    if done.backup:
        console.print(
            f"{done.cut_bytes:,} bytes that were no whole command were cut off {escape(str(done.file))}; "
            f"{done.kept_bytes:,} are left, and the damaged file is kept as {escape(done.backup.name)}"
        )


@store_errors("reading the buffer's settings")
def _kept_config(client: redis.Redis, name: str) -> BufferConfig:
    """The settings that the buffer is kept under."""
    found: Any = client.hget(Keys(name).counters, "settings")
    if found is None:
        raise ConfigError(f"there is no buffer called {name!r} on this server; a run's is in its folder's file `name`.")
    try:
        kept = StoreSettings.model_validate_json(found)
    except ValueError as error:
        raise StoreError(f"the settings of buffer {name!r} can't be read: another release wrote them") from error
    advanced = BufferAdvanced(
        sampler="highest_reward" if kept.rank_by_reward else "prioritized",
        evict=kept.evict,
        per_prompt_quota=kept.per_prompt_quota,
        max_times_sampled=kept.max_times_sampled,
        max_staleness=kept.max_staleness,
    )
    return BufferConfig(
        capacity=kept.capacity, fresh_capacity=kept.fresh_capacity, min_size_to_sample=1, advanced=advanced
    )


def _findings(opened: Opened) -> list[str]:
    with store_errors("checking the buffer"):
        return findings(snapshot(opened.client, opened.buffer.store.keys))


def _repair(opened: Opened) -> None:
    store = opened.buffer.store
    with store_errors("repairing the buffer"):
        found = snapshot(opened.client, store.keys)
        orphans = repair(opened.client, store.keys, found, store.settings.ranked_by)
    readable = []
    for record in orphans:
        try:
            readable.append(decode_scored(record))
        except RecordError:
            continue
    added = opened.buffer.add(readable).added if readable else 0
    console.print(f"repaired; of {len(orphans):,} records without an item {added:,} were added again")


def _show(wrong: list[str]) -> None:
    for finding in wrong:
        console.print(f"[red]wrong[/red]  {escape(finding)}")
