"""`tributary train` and `tributary validate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer

from buffer.errors import ConfigError
from deploy.formatting import console

if TYPE_CHECKING:
    from deploy.driver.train_options import TrainOptions

TrainedRecipe = Annotated[
    str | None, typer.Argument(help="A name under deploy/recipes, or the path of a TOML file.", show_default=False)
]
Recipe = Annotated[str, typer.Argument(help="A name under deploy/recipes, or the path of a TOML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value ...", show_default=False)]


def train(
    recipe: TrainedRecipe = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option("--run", help="Folder of the run. Default: runs/RECIPE.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start anew where a run exists already.")] = False,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with the run in this folder.")] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the run of --run if there is one, else start it.")
    ] = False,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve a page to watch it.")] = True,
    dashboard_port: Annotated[
        int | None,
        typer.Option("--dashboard-port", min=0, max=65535, help="0: any free one. Default: 8710, or any free one."),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", help="Figures to tensorboard, wandb or trackio too.", show_default=False),
    ] = None,
) -> None:
    """Train: actors, reward workers, buffer and learner, until the recipe's steps are done. Ctrl-C ends it cleanly.

    A run that ended early, or died, goes on from its newest checkpoint: tributary train --resume runs/NAME
    """
    from deploy.commands.environment import prepare_for_ray
    from deploy.config import load_recipe
    from deploy.driver.preflight import check
    from deploy.driver.train_options import TrainOptions

    if go_on:
        if run is None or resume is not None or replace:
            raise ConfigError("--continue goes with --run DIR, and with neither --resume nor --replace.")
        if (run.expanduser() / "config.toml").is_file():
            recipe, resume, run = None, run, None
    options = TrainOptions(dashboard, dashboard_port, tuple(sink or ()))
    if resume is not None:
        changes = [*([recipe] if recipe else []), *(overrides or [])]
        _only_overrides(changes, run, replace)
        _resume(resume, changes, options, ok_if_finished=go_on)
        return
    if recipe is None:
        raise ConfigError("train needs a recipe, such as `tributary train demo`, or --resume with a run's folder.")
    checked = check(load_recipe(recipe, overrides or []))
    prepare_for_ray()
    from deploy.driver.train import train as run_training

    run_training(checked, run or Path("runs") / Path(recipe).stem, replace, console, options)


def validate(recipe: Recipe, overrides: Overrides = None) -> None:
    """Resolve and check everything that `train` would, start nothing, print the resolved configuration."""
    from deploy.config import load_recipe, shown_config
    from deploy.driver.preflight import check, check_store

    config = load_recipe(recipe, overrides or [])
    check(config)
    check_store(config.buffer)
    sys.stdout.write(tomli_w.dumps(shown_config(config)))


def _resume(path: Path, changes: list[str], options: "TrainOptions", ok_if_finished: bool) -> None:
    """Go on with the run in a folder; where all its steps are done say so if that is well, else ConfigError."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.commands.environment import prepare_for_ray
    from deploy.config import resumed_config
    from deploy.driver.preflight import check

    folder = RunFolder.open(path)
    config = resumed_config(folder.read_config(), changes, source=f"{path}/config.toml")
    if ok_if_finished and folder.finished_steps() >= config.learner.steps:
        console.print(f"{path} has done all its learner.steps = {config.learner.steps}: nothing is left to do.")
        return
    checked = check(config)
    prepare_for_ray()
    from deploy.driver.train import resume as resume_training

    resume_training(checked, folder, console, options)


def _only_overrides(arguments: list[str], run: Path | None, replace: bool) -> None:
    """A resumed run has its recipe and its folder already."""
    if run or replace or any("=" not in argument for argument in arguments):
        raise ConfigError(
            "--resume takes the folder of a run and section.field=value, and nothing else: recipe and folder are "
            "the run's own."
        )
