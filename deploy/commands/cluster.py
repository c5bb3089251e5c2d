"""`tributary submit` and `tributary scale`: a run on a cluster, and how much of it."""

from pathlib import Path
from typing import Annotated

import typer


def submit(
    recipe: Annotated[str, typer.Argument(help="A name under deploy/recipes, or the path of a TOML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.field=value ...", show_default=False)] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run: absolute, on a disk that the nodes share.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Of the job server. Default: $RAY_API_SERVER_ADDRESS.")
    ] = None,
    working_dir: Annotated[Path, typer.Option("--working-dir", help="Sent to the cluster.")] = Path("."),
    python: Annotated[str, typer.Option("--python", help="Interpreter on the cluster.")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Don't follow the job.")] = False,
    start_limit_s: Annotated[
        float, typer.Option("--start-limit", min=0.0, help="Wait so long for a cluster that starts, s.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command, run nothing.")] = False,
) -> None:
    """Train as a job of a Ray cluster; goes on with the run if it exists, follows its job if that is alive."""
    from deploy.cluster import submit as submission

    job = submission.job(recipe, overrides or [], run, address, working_dir, python)
    typer.echo(job.shown())
    if not dry_run and (code := submission.submit(job, not no_wait, start_limit_s)):
        raise typer.Exit(code)


def scale(
    numbers: Annotated[list[str], typer.Argument(help="actors=N, rewards=N")],
    run: Annotated[Path, typer.Option("--run", help="The run's folder.")],
    limit_s: Annotated[float, typer.Option("--limit", min=0.0, help="Wait so long for them, s.")] = 300.0,
) -> None:
    """Change how many actors and reward workers a run has, while it runs."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.artifacts.scale_file import Wanted
    from deploy.artifacts.scale_file import scale as change

    change(RunFolder.open(run), Wanted.parse(numbers), limit_s, typer.echo)
