"""`tributary evaluate`: judge base model and trained policy of a finished run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from deploy.commands.decoding_options import (
    Beam,
    BestOf,
    DiverseBeam,
    Greedy,
    MaxTokens,
    Shots,
    Temperature,
    TopP,
    decoding_of,
)
from deploy.formatting import console, visible

if TYPE_CHECKING:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.driver.decoding import Decoding
    from deploy.driver.preflight import Checked

RunDir = Annotated[Path, typer.Option("--run", metavar="DIR", help="Folder of the run.")]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Split of the task's prompts, such as train or test. `evaluate` also takes simulated: prompts for which "
        "the base model wrote an exact draw.",
    ),
]
SamplesAPrompt = Annotated[
    int | None,
    typer.Option("--samples", metavar="N", min=1, help="Samples per prompt. Default: the recipe's evaluation.samples."),
]
MostPrompts = Annotated[
    int | None,
    typer.Option(
        "--prompts",
        metavar="N",
        min=0,
        help="Largest number of prompts of the split; 0 takes all. Default: the recipe's evaluation.prompts.",
    ),
]
ExactTries = Annotated[
    int | None,
    typer.Option(
        "--exact-tries",
        metavar="N",
        min=1,
        help="Draws of the base model per prompt from which exact draws are accepted. Default: four times the samples.",
    ),
]
MethodName = Annotated[
    str, typer.Option("--method", metavar="NAME", help="With --exact: rejection, metropolis or resampling.")
]
EngineSeed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the engine's sampling.")]


def evaluate(
    run: RunDir,
    split: Split = "train",
    samples: SamplesAPrompt = None,
    prompts: MostPrompts = None,
    exact_tries: ExactTries = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    greedy: Greedy = False,
    beam: Beam = 0,
    diverse_beam: DiverseBeam = 0,
    best_of: BestOf = 1,
    shots: Shots = 0,
    max_tokens: MaxTokens = 0,
    seed: EngineSeed = 12345,
) -> None:
    """Sample from the base model and from the final adapter of a run with vLLM, and evaluate both.

    With any option from --temperature to --max-tokens the strings are no samples of the policy: only the task's own
    figures are computed.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    given = "--exact-tries" if exact_tries else ""
    decoding = decoding_of(temperature, top_p, greedy, beam, diverse_beam, best_of, shots, max_tokens, given)
    if not decoding.is_sampling:
        _evaluate_decoding(run, split, samples, prompts, decoding, seed)
        return
    from deploy.driver.evaluate_run import evaluate_run
    from deploy.driver.evaluation import explanations, notes, show_certificates
    from deploy.telemetry.before_after_table import before_after_table
    from rewards.judging.posterior import resampled_unit

    folder, checked = open_run(run)
    result = evaluate_run(checked, folder, split, samples, prompts, exact_tries, seed, console.print)
    before, after = result.before.figures, result.after.figures
    unit = resampled_unit(result.after.samples)
    intervals = f"Intervals: 95 %, bootstrap over {unit}; for the task's own figures as the task defines them."
    below = [*notes(checked, result.after, split), intervals]
    console.print(before_after_table(before, after, explanations(checked), below))
    console.print(show_certificates(*result.certificates))
    for problem in result.problems:
        console.print(f"[yellow]{escape(visible(problem))}[/yellow]", soft_wrap=True)
    console.print(f"Written: {run}/{result.file} and {run}/plots")


def _evaluate_decoding(
    run: Path, split: str, samples: int | None, prompts: int | None, decoding: "Decoding", seed: int
) -> None:
    """Print the task's figures of base model and adapter under another way to decode."""
    from deploy.driver.evaluate_decoding import FILE, evaluate_decoding
    from deploy.driver.evaluation import explanations
    from deploy.telemetry.before_after_table import before_after_table

    folder, checked = open_run(run)
    decoded = evaluate_decoding(checked, folder, split, samples, prompts, decoding, seed, console.print)
    note = f"{decoded.strings:,} strings in all: {decoding.words()}."
    console.print(before_after_table(decoded.before, decoded.after, explanations(checked), [note]))
    if decoded.problem:
        console.print(f"[yellow]{escape(visible(decoded.problem))}[/yellow]", soft_wrap=True)
    console.print(f"Written: {run}/{FILE}")


def open_run(run: Path) -> "tuple[RunFolder, Checked]":
    """The folder and the checked configuration of a run."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config
    from deploy.driver.preflight import check

    folder = RunFolder.open(run)
    return folder, check(parse_config(folder.read_config(), source=f"{run}/config.toml"))
