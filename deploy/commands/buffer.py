"""`tributary buffer ...`: inspect, check, export, import and clear a replay buffer."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

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


@buffer_app.command()
def stats(
    run: Run = None,
    url: Url = None,
    name: Name = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the statistics of a buffer: size, arrivals, evictions, rewards, staleness, priorities."""
    from deploy.commands.buffer_table import stats_table, stats_values
    from deploy.commands.opened_buffer import opened_buffer

    with opened_buffer(run, url, name, reads=True) as (_, buffer):
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
    from deploy.commands.opened_buffer import opened_buffer, problems_of, repair_indexes

    with opened_buffer(run, url, name, reads=not fix, fix=fix) as opened:
        problems = problems_of(opened)
        if problems and fix:
            _show(problems)
            repair_indexes(opened)
            problems = problems_of(opened)
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
    from buffer.archive import export_archive
    from deploy.commands.opened_buffer import opened_buffer

    with opened_buffer(run, url, name, reads=True) as (client, buffer):
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
    from buffer.archive import import_archive
    from deploy.commands.opened_buffer import opened_buffer

    with opened_buffer(run, url, name) as (_, buffer):
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
    from deploy.commands.opened_buffer import opened_buffer

    with opened_buffer(run, url, name) as (_, buffer):
        size = buffer.stats().size
        if not yes and not typer.confirm(f"Delete {size:,} trajectories?"):
            raise typer.Exit(1)
        buffer.clear()
    console.print(f"{size:,} trajectories deleted")


def _show(problems: list[str]) -> None:
    for problem in problems:
        console.print(f"[red]wrong[/red]  {escape(problem)}")
