"""`tributary submit` and `tributary scale`: start a run on a cluster, and change its size."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.train import Overrides, Recipe


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Folder of the run: an absolute path on a disk that all nodes share. Required."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Address of Ray's job server. Default: $RAY_API_SERVER_ADDRESS."),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", metavar="DIR", help="Folder with the code that is sent to the cluster.")
    ] = Path("."),
    python: Annotated[
        str, typer.Option("--python", metavar="PATH", help="Python interpreter on the cluster.")
    ] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once, without following the job.")] = False,
    start_limit_s: Annotated[
        float,
        typer.Option("--start-limit", metavar="SECONDS", min=0.0, help="Longest wait for a cluster that is starting."),
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command without running it.")] = False,
) -> None:
    """Train as a job of a Ray cluster. An existing run is resumed; if its job is alive, the job is followed."""
    from deploy.cluster import submit as submission

    job = submission.job(recipe, overrides or [], run, address, working_dir, python)
    typer.echo(job.shown())
    if not dry_run and (code := submission.submit(job, not no_wait, start_limit_s)):
        raise typer.Exit(code)


def scale(
    numbers: Annotated[
        list[str], typer.Argument(metavar="ROLE=N", help="New number of processes: actors=N, rewards=N, or both.")
    ],
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")],
    limit_s: Annotated[
        float, typer.Option("--limit", metavar="SECONDS", min=0.0, help="Longest wait for the new number.")
    ] = 300.0,
) -> None:
    """Change the number of actors and reward workers of a run while it trains."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.artifacts.scale_file import ScaleRequest, request_scale

    request_scale(RunFolder.open(run), ScaleRequest.parse(numbers), limit_s, typer.echo)
