"""The `tributary` command. Parses and calls; every word that a user meets in an error comes from buffer.errors."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tomli_w
import typer
from rich.console import Console
from rich.markup import escape

from buffer.errors import ConfigError, TributaryError
from deploy.buffer_cli import buffer_app
from deploy.causes import cause_of
from deploy.cluster_cli import scale, submit
from deploy.dashboard_cli import dashboard, report
from deploy.terminal import console, visible

if TYPE_CHECKING:
    from deploy.checks import Checked
    from deploy.run_folder import RunFolder
    from deploy.watching import Watching

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune language models to sample from posteriors.",
)
model_app = typer.Typer(no_args_is_help=True, help="Base models.")
app.add_typer(model_app, name="model")
app.add_typer(buffer_app, name="buffer", help="A run's replay buffer: look at it, check it, keep it, move it.")
app.command()(submit)
app.command()(scale)
app.command()(dashboard)
app.command()(report)

TrainedRecipe = Annotated[
    str | None, typer.Argument(help="A name under deploy/recipes, or the path of a TOML file.", show_default=False)
]
Recipe = Annotated[str, typer.Argument(help="A name under deploy/recipes, or the path of a TOML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value ...", show_default=False)]
RunDir = Annotated[Path, typer.Option("--run", help="The run's folder.")]
Split = Annotated[str, typer.Option("--split", help="Of the task's prompts.")]


@app.command()
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
    from deploy.checks import check
    from deploy.config import load_recipe
    from deploy.environment import prepare_for_ray
    from deploy.watching import Watching

    if go_on:
        if run is None or resume is not None or replace:
            raise ConfigError("--continue goes with --run DIR, and with neither --resume nor --replace.")
        if (run.expanduser() / "config.toml").is_file():
            recipe, resume, run = None, run, None
    watching = Watching(dashboard, dashboard_port, tuple(sink or ()))
    if resume is not None:
        changes = [*([recipe] if recipe else []), *(overrides or [])]
        _only_overrides(changes, run, replace)
        _resume(resume, changes, watching, done_is_well=go_on)
        return
    if recipe is None:
        raise ConfigError("train needs a recipe, such as `tributary train demo`, or --resume with a run's folder.")
    checked = check(load_recipe(recipe, overrides or []))
    prepare_for_ray()
    from deploy.train import train as run_training

    run_training(checked, run or Path("runs") / Path(recipe).stem, replace, console, watching)


@app.command()
def validate(recipe: Recipe, overrides: Overrides = None) -> None:
    """Resolve and check everything that `train` would, start nothing, print the resolved configuration."""
    from deploy.checks import check, check_store
    from deploy.config import load_recipe, shown_config

    config = load_recipe(recipe, overrides or [])
    check(config)
    check_store(config.buffer)
    sys.stdout.write(tomli_w.dumps(shown_config(config)))


@app.command()
def evaluate(
    run: RunDir,
    split: Split = "train",
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="A prompt. Default: the recipe's.")] = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", min=0, help="So many of the split at most; 0: all. Default: the recipe's."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the engine's sampling.")] = 12345,
) -> None:
    """Draw fresh samples of the base model and of the final adapter through vLLM, and judge both."""
    from deploy.environment import quiet_engine

    quiet_engine()
    from deploy.evaluation import draw, explanations, judge, judged_prompts, rate, write_evaluation, write_plots
    from deploy.live import before_after_table
    from deploy.yardsticks import find_yardsticks, left_out
    from rewards.judging.posterior import resampled_unit

    folder, checked = _open(run)
    chosen, yardsticks = judged_prompts(checked, split, prompts), find_yardsticks()
    n = samples or checked.config.evaluation.samples
    of = f"{len(chosen):,} of {len(checked.task.prompts(split)):,} prompts of split {split}"
    console.print(f"Drawing {n:,} samples of each of {of}, from the base model and from {run}/adapter ...")
    version = folder.version()
    drawn = draw(checked, chosen, (version, folder.adapter()), n, base_too=True, seed=seed)
    console.print("Scoring and judging them ...")
    before, after = (judge(checked, some, yardsticks, n) for some in rate(checked, chosen, drawn))
    more = {"samples_a_prompt": n, "seed": seed, "adapter_sha256": version.digest}
    written = write_evaluation(folder, checked, before, after, split, more)
    write_plots(folder, checked, before, after, split)
    console.print(before_after_table(before.figures, after.figures, explanations(checked)))
    unit = resampled_unit(after.samples)
    console.print(f"Intervals hold 95 %: bootstrap over {unit}; of the task's own figures, as the task says.")
    for said in dict.fromkeys((before.problem, after.problem, left_out(checked.task, after.figures, yardsticks))):
        if said:
            console.print(f"[yellow]{escape(visible(said))}[/yellow]", soft_wrap=True)
    console.print(f"Written: {run}/{written} and {run}/plots")


@app.command()
def sample(
    run: RunDir,
    n: Annotated[int, typer.Option("-n", min=1, help="Samples a prompt.")] = 10,
    split: Split = "train",
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="Id of a prompt; may be given again. Default: as evaluate.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: prompt, text, log_q, log_reward, terms (nats).")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the engine's sampling.")] = 0,
) -> None:
    """Print samples of a run's final adapter, one a line."""
    from deploy.environment import quiet_engine

    quiet_engine()
    from deploy.evaluation import draw, judged_prompts, named_prompts, rate, sample_lines

    folder, checked = _open(run)
    chosen = named_prompts(checked, split, prompt) if prompt else judged_prompts(checked, split)
    [drawn] = draw(checked, chosen, (folder.version(), folder.adapter()), n, base_too=False, seed=seed)
    if as_json:
        [rated] = rate(checked, chosen, [drawn])
        sys.stdout.writelines(f"{line}\n" for line in sample_lines(checked, rated))
        if unscored := n * len(chosen) - sum(map(len, rated.values())):
            typer.echo(f"{unscored} samples were left out: their reward failed.", err=True)
        return
    for one in chosen:
        for sampled in drawn[one.id]:
            response = checked.tokenizer.decode(sampled.token_ids.tolist(), skip_special_tokens=False)
            console.print(f"[dim]{escape(visible(one.text))}[/dim]{escape(visible(response))}", soft_wrap=True)


@app.command("m-step")
def m_step(
    run: RunDir,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Rationales of each training prompt.")] = 20,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 100,
    rate: Annotated[float, typer.Option("--learning-rate", min=0.0, help="Peak.")] = 1e-4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampling and of the order of batches.")] = 0,
) -> None:
    """EM: fit p(answer | prompt, rationale) on rationales of a run; the next run scores with what comes out."""
    from deploy.environment import quiet_engine

    quiet_engine()
    from deploy.m_step import fit, write

    folder, checked = _open(run)
    console.print(
        f"Drawing {samples:,} rationales of each of {len(checked.prompts):,} prompts, then {steps:,} steps ..."
    )
    fitted = fit(checked, folder, samples, steps, rate, seed)
    written = write(fitted.files, folder.path)
    tenth = max(1, steps // 10)
    first, last = (sum(part) / len(part) for part in (fitted.losses[:tenth], fitted.losses[-tenth:]))
    console.print(
        f"Cross-entropy {first:.3f} -> {last:.3f} nats. Written: {written}\n"
        f"The next E-step: tributary train RECIPE rewards.adapter={written.absolute()} --run ANOTHER_FOLDER",
        soft_wrap=True,
    )


@app.command()
def doctor() -> None:
    """What is on this machine, what is missing, and the command that mends it."""
    from deploy.doctor import examine, show

    if not show(examine(), console):
        raise typer.Exit(1)


@model_app.command("get")
def model_get(name: Annotated[str, typer.Argument(help="A model that Tributary knows how to fetch.")]) -> None:
    """Fetch a base model into the cache, checked by sha256."""
    from deploy.models import get_model

    get_model(name, console)


def main() -> NoReturn:
    """Entry of the `tributary` command: errors made on purpose end in one message and exit code 2."""
    sys.path.insert(0, str(Path.cwd()))  # tasks of the user's own are imported from where the command is typed
    try:
        app(standalone_mode=True)
    except TributaryError as error:
        _fail(error)
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        _fail(cause)
    raise SystemExit(0)


def _resume(path: Path, changes: list[str], watching: "Watching", done_is_well: bool) -> None:
    """Go on with the run in a folder; where all its steps are done say so if that is well, else ConfigError."""
    from deploy.checks import check
    from deploy.config import resumed_config
    from deploy.environment import prepare_for_ray
    from deploy.run_folder import RunFolder

    folder = RunFolder.open(path)
    config = resumed_config(folder.read_config(), changes, source=f"{path}/config.toml")
    if done_is_well and folder.finished_steps() >= config.learner.steps:
        console.print(f"{path} has done all its learner.steps = {config.learner.steps}: nothing is left to do.")
        return
    checked = check(config)
    prepare_for_ray()
    from deploy.train import resume as resume_training

    resume_training(checked, folder, console, watching)


def _only_overrides(arguments: list[str], run: Path | None, replace: bool) -> None:
    """A resumed run has its recipe and its folder already."""
    if run or replace or any("=" not in argument for argument in arguments):
        raise ConfigError(
            "--resume takes the folder of a run and section.field=value, and nothing else: recipe and folder are "
            "the run's own."
        )


def _open(run: Path) -> "tuple[RunFolder, Checked]":
    """A run's folder and its checked configuration."""
    from deploy.checks import check
    from deploy.config import parse_config
    from deploy.run_folder import RunFolder

    folder = RunFolder.open(run)
    return folder, check(parse_config(folder.read_config(), source=f"{run}/config.toml"))


def _fail(error: TributaryError) -> NoReturn:
    Console(stderr=True, highlight=False).print(
        f"[red bold]{type(error).__name__}[/red bold]: {escape(str(error))}", soft_wrap=True
    )
    raise SystemExit(2)


if __name__ == "__main__":
    main()
