"""`tributary train` and `tributary validate`: start, resume or check a run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer

from buffer.errors import ConfigError
from deploy.formatting import console

if TYPE_CHECKING:
    from deploy.driver.preflight import Checked
    from deploy.driver.train_options import TrainOptions

RECIPE_HELP = "Name of a recipe in deploy/recipes, or path of a TOML file."
OptionalRecipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help=f"{RECIPE_HELP} Not with --resume.", show_default=False)
]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.SETTING=VALUE",
        help="Settings that replace those of the recipe, such as learner.steps=500.",
        show_default=False,
    ),
]
DashboardPort = Annotated[
    int | None,
    typer.Option(
        "--dashboard-port",
        metavar="PORT",
        min=0,
        max=65535,
        help="Port of the web page; 0 takes any free port. Default: 8710, or a free port if 8710 is in use.",
    ),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option(
        "--sink",
        metavar="NAME",
        help="Also send the figures to tensorboard, wandb, trackio or mlflow. Repeat it for several.",
        show_default=False,
    ),
]


def train(
    recipe: OptionalRecipe = None,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Folder of the new run. Default: runs/RECIPE.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete an existing run in the folder of --run and start a new one.")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Resume the run in this folder.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Resume the run in the folder of --run if there is one; else start it.")
    ] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Serve a web page that shows the run.")
    ] = True,
    dashboard_port: DashboardPort = None,
    sink: Sinks = None,
) -> None:
    """Train the policy of a recipe until its steps are done. Ctrl-C stops the run cleanly.

    A run that stopped early or crashed resumes from its newest checkpoint: tributary train --resume runs/NAME
    """
    from deploy.driver.train_options import TrainOptions

    if go_on:
        if run is None or resume is not None or replace:
            raise ConfigError("--continue needs --run DIR, and takes neither --resume nor --replace.")
        if (run.expanduser() / "config.toml").is_file():
            recipe, resume, run = None, run, None
    options = TrainOptions(dashboard, dashboard_port, tuple(sink or ()))
    if resume is not None:
        changes = [*([recipe] if recipe else []), *(overrides or [])]
        _require_only_overrides(changes, run, replace)
        _resume(resume, changes, options, ok_if_finished=go_on)
        return
    if recipe is None:
        raise ConfigError("train needs a recipe, such as `tributary train demo`, or --resume with the folder of a run.")
    _start(recipe, overrides or [], run or Path("runs") / Path(recipe).stem, replace, options)


def validate(
    recipe: Recipe,
    overrides: Overrides = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print the memory of each process and GPU instead, from the model's config.json alone. Exit code "
            "1: it does not fit.",
        ),
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", metavar="N", min=0, help="With --plan: GPUs. Default: as few as the shares need."),
    ] = None,
    gpu_gib: Annotated[
        float | None,
        typer.Option(
            "--gpu-gib",
            metavar="GIB",
            min=1.0,
            help="With --plan: memory of a GPU, GiB. Default: the smallest of this machine's GPUs; 79.6 without one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a recipe as `train` does, and print the resolved configuration and its prompts. Starts nothing."""
    if plan:
        _show_plan(recipe, overrides or [], gpus, gpu_gib)
        return
    from deploy.config import load_recipe, shown_config
    from deploy.driver.check_machine import unchecked
    from deploy.driver.preflight import check, check_store

    config = load_recipe(recipe, overrides or [])
    checked = check(config)
    check_store(config.buffer)
    if note := unchecked(config):
        typer.echo(note, err=True)
    sys.stdout.write(tomli_w.dumps(shown_config(checked.config)) + "\n")
    for line in _found(checked, recipe):
        sys.stdout.write(f"# {line}\n")


def _found(checked: "Checked", recipe: str) -> list[str]:
    """What the checks saw, and that they passed; as comments, the output stays a TOML file."""
    task, lines = checked.task, []
    splits = {split: task.prompts(split) for split in task.splits}
    first, *_ = checked.prompts
    longest = max((prompt for of_split in splits.values() for prompt in of_split), key=lambda p: len(p.token_ids))
    lines.append("Prompts: " + ", ".join(f"{len(of_split)} in {split!r}" for split, of_split in splits.items()))
    lines.append(f"Longest prompt: {longest.id}, {len(longest.token_ids)} tokens")
    text = checked.tokenizer.decode(first.token_ids.tolist(), skip_special_tokens=False)
    lines.append(f"First prompt, as the model sees it: {text!r}")
    if checked.demonstrations:
        lines.append(f"Demonstrations: {len(checked.demonstrations)}")
    lines.append(f"Memory: tributary validate {recipe} --plan")
    lines.append("OK")
    return lines


def _show_plan(recipe: str, overrides: list[str], gpus: int | None, gpu_gib: float | None) -> None:
    """Print the memory plan; exit code 1 where it does not fit."""
    from deploy.commands.environment import quiet_engine
    from deploy.config import load_recipe
    from deploy.models.registry import config_folder

    quiet_engine()
    from deploy.driver.memory_plan import card_gib, make_plan, model_shape, show_plan

    config = load_recipe(recipe, overrides)
    with config_folder(config.model.name) as folder:
        shape = model_shape(config, folder)
    memory_plan = make_plan(config, shape, gpus, card_gib() if gpu_gib is None else gpu_gib)
    show_plan(memory_plan, config, shape, console)
    if memory_plan.problems:
        raise typer.Exit(1)


def _start(recipe: str, overrides: list[str], folder: Path, replace: bool, options: "TrainOptions") -> None:
    """Start a new run in a folder; `replace` deletes the run that is there."""
    from deploy.commands.environment import prepare_for_ray
    from deploy.config import load_recipe
    from deploy.driver.preflight import check
    from deploy.driver.stop_signal import exit_on_signal

    with exit_on_signal(console):
        config = load_recipe(recipe, overrides)
        console.print(
            f"Checking the recipe {recipe}, then starting {config.actors.count + config.rewards.workers + 1} "
            "processes with a model each."
        )
        checked = check(config)
        prepare_for_ray()
        from deploy.driver.train import train as run_training

    run_training(checked, folder, replace, console, options)


def _resume(path: Path, changes: list[str], options: "TrainOptions", ok_if_finished: bool) -> None:
    """Resume the run in a folder. If its steps are done, print that with `ok_if_finished`, else raise ConfigError."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.commands.environment import prepare_for_ray
    from deploy.config import resumed_config
    from deploy.driver.preflight import check
    from deploy.driver.stop_signal import exit_on_signal

    folder = RunFolder.open(path)
    config = resumed_config(folder.read_config(), changes, source=f"{path}/config.toml")
    if ok_if_finished and folder.finished_steps() >= config.learner.steps:
        console.print(f"{path} has done all its learner.steps = {config.learner.steps}: there is nothing left to do.")
        return
    with exit_on_signal(console):
        checked = check(config)
        prepare_for_ray()
        from deploy.driver.train import resume as resume_training

    resume_training(checked, folder, console, options)


def _require_only_overrides(arguments: list[str], run: Path | None, replace: bool) -> None:
    """ConfigError for a recipe or a folder: a resumed run has both already."""
    if run or replace or any("=" not in argument for argument in arguments):
        raise ConfigError(
            "--resume takes the folder of a run and section.setting=value, and nothing else: the run keeps its recipe "
            "and its folder."
        )
