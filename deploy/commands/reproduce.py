"""`tributary reproduce`: the table of one experiment, row by row."""

from pathlib import Path
from typing import Annotated

import typer

from buffer.errors import ConfigError
from deploy.commands.train import Overrides
from deploy.evidence.experiments import EXPERIMENTS, find_experiment
from deploy.formatting import console


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of: {', '.join(EXPERIMENTS)}.")],
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Seeds of each contender.")] = 1,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="MIN", min=0.0, help="Start no row after this many minutes. Default: none."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Folder of the result. Default: docs/results/NAME.")
    ] = None,
) -> None:
    """Train and evaluate every contender of an experiment and write table.md, figure.svg and results.json.

    Rows that are in results.json are not run again, and a run that was interrupted is resumed.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.evidence.reproduce import Place, reproduce

    experiment, folder = find_experiment(name), to or Path("docs/results") / name
    if wrong := [o for o in overrides or [] if "=" not in o]:
        raise ConfigError(f"{wrong[0]!r} is not section.setting=value.")
    trained = sum(contender.trains for contender in experiment.contenders)
    console.print(
        f"{experiment.title}: {len(experiment.contenders)} contenders, {trained} of them trained, about "
        f"{experiment.minutes:g} min each on two cores; {seeds} of each."
    )
    place = Place(Path("runs/reproduce").absolute() / name, folder)
    seconds = float("inf") if budget is None else 60 * budget
    left = reproduce(name, experiment, place, seeds, seconds, overrides or [], console.print)
    if left:
        console.print(f"Out of time with {len(left)} rows left, next {left[0][0].name}: run the same command again.")
    console.print(f"Written: {folder}/table.md, figure.svg, results.json")
