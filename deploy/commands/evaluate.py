"""`tributary evaluate`, `tributary sample` and `tributary m-step`: use what a run has learned."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from buffer.errors import ConfigError
from deploy.formatting import console, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actors.behaviour import Behaviour
    from actors.segments import Sampled
    from buffer.types import AdapterFiles, AdapterVersion, Prompt
    from deploy.artifacts.run_folder import RunFolder
    from deploy.driver.preflight import Checked
    from deploy.driver.samples import Drawn, Samples
    from rewards.judging.correction import Method
    from rewards.task import Sample

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
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        metavar="T",
        min=0.0,
        max=2.0,  # actors.config.MAX_TEMPERATURE
        help="Temperature of the sampling; 0 takes the likeliest token.",
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="P",
        min=0.01,
        max=1.0,
        help="Draw among the likeliest tokens whose probabilities add up to P.",
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
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", metavar="N", min=1, help="Samples per prompt. Default: the recipe's evaluation.samples."
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            "--prompts",
            metavar="N",
            min=0,
            help="Largest number of prompts of the split; 0 takes all. Default: the recipe's evaluation.prompts.",
        ),
    ] = None,
    exact_tries: ExactTries = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    seed: EngineSeed = 12345,
) -> None:
    """Sample from the base model and from the final adapter of a run with vLLM, and evaluate both.

    With --temperature or --top-p the samples do not follow the policy: only the task's own figures are computed.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    if temperature != 1.0 or top_p != 1.0:
        behaviour = _behaviour(temperature, top_p, "--exact-tries" if exact_tries else "")
        _evaluate_decoding(run, split, samples, prompts, behaviour, seed)
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


def _behaviour(temperature: float, top_p: float, option: str) -> "Behaviour":
    """How to decode. ConfigError where `option` needs samples of the policy itself."""
    from actors.behaviour import Behaviour
    from actors.rollout import ON_POLICY

    if temperature == 1.0 and top_p == 1.0:
        return ON_POLICY
    if option:
        raise ConfigError(f"{option} needs samples of the policy: it takes neither --temperature nor --top-p.")
    return Behaviour("decoding", temperature, suppress_stop=False, top_p=top_p)


def _evaluate_decoding(
    run: Path, split: str, samples: int | None, prompts: int | None, behaviour: "Behaviour", seed: int
) -> None:
    """Print the task's figures of base model and adapter under another way to decode."""
    from deploy.driver.evaluate_decoding import FILE, evaluate_decoding
    from deploy.driver.evaluation import explanations
    from deploy.telemetry.before_after_table import before_after_table

    folder, checked = open_run(run)
    decoded = evaluate_decoding(checked, folder, split, samples, prompts, behaviour, seed, console.print)
    note = f"{decoded.samples:,} samples a prompt at temperature {behaviour.temperature:g}, top-p {behaviour.top_p:g}."
    console.print(before_after_table(decoded.before, decoded.after, explanations(checked), [note]))
    if decoded.problem:
        console.print(f"[yellow]{escape(visible(decoded.problem))}[/yellow]", soft_wrap=True)
    console.print(f"Written: {run}/{FILE}")


def sample(
    run: RunDir,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Samples per prompt.")] = 10,
    split: Split = "train",
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="ID", help="Id of a prompt; repeat it for several. Default: the prompts of `evaluate`."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per line: prompt, text, log_q, log_reward, terms (nats)."),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Correct the samples with their rewards until they follow the target, from four times as many draws: "
            "by rejection, which is exact, where the task lists its strings, else by Metropolis-Hastings.",
        ),
    ] = False,
    method: MethodName = "",
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    seed: EngineSeed = 0,
) -> None:
    """Print samples from the final adapter of a run, one per line."""
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.exact_samples import PROPOSALS, method_of
    from deploy.driver.samples import draw, judged_prompts, named_prompts, sample_lines

    folder, checked = open_run(run)
    chosen = named_prompts(checked, split, prompt) if prompt else judged_prompts(checked, split)
    chosen_method = method_of(checked, method) if exact or method else None
    behaviour = _behaviour(temperature, top_p, "--exact" if chosen_method else "")
    adapter, number = (folder.version(), folder.adapter()), n * PROPOSALS if chosen_method else n
    [drawn] = draw(checked, chosen, adapter, number, base_too=False, seed=seed, say=_aside, behaviour=behaviour)
    if not as_json and not chosen_method:
        _print_samples(checked, chosen, drawn)
        return
    scored = _scored(checked, chosen, drawn, number)
    if chosen_method:
        scored = _corrected(checked, adapter, chosen, scored, n, chosen_method, seed)
    if as_json:
        sys.stdout.writelines(f"{line}\n" for line in sample_lines(checked, scored))
    else:
        _print_samples(checked, chosen, scored)


def _scored(checked: "Checked", prompts: "Sequence[Prompt]", drawn: "Drawn", number: int) -> "Samples":
    """`number` draws per prompt with their rewards; prints how many are omitted."""
    from deploy.driver.samples import score_samples

    [scored] = score_samples(checked, prompts, [drawn])
    if unscored := number * len(prompts) - sum(map(len, scored.values())):
        typer.echo(f"{unscored} samples are omitted: their reward failed.", err=True)
    return scored


def _corrected(
    checked: "Checked",
    adapter: "tuple[AdapterVersion, AdapterFiles]",
    prompts: "Sequence[Prompt]",
    proposals: "Samples",
    n: int,
    method: "Method",
    seed: int,
) -> "Samples":
    """`n` corrected samples per prompt, of the target at the temperature of the adapter's step; prints a summary."""
    from deploy.driver.exact_samples import correct
    from learner.schedule import reward_temperature

    version, files = adapter
    temperature = reward_temperature(version.learner_step, checked.config.learner)
    exact = correct(checked, files, prompts, proposals, n, method, temperature, seed)
    typer.echo(exact.summary(method), err=True)
    return exact.samples


def _aside(line: str) -> None:
    """Print a line that is no sample."""
    typer.echo(line, err=True)


def _print_samples(
    checked: "Checked", prompts: "Sequence[Prompt]", samples: "Mapping[str, Sequence[Sampled | Sample]]"
) -> None:
    """Each sample behind its prompt, one per line."""
    for prompt in prompts:
        for sampled in samples[prompt.id]:
            response = checked.tokenizer.decode(sampled.token_ids.tolist(), skip_special_tokens=False)
            shown = f"[dim]{escape(visible(prompt.text))}[/dim]{escape(visible(response))}"
            console.print(shown, soft_wrap=True)


def m_step(
    run: RunDir,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="Rationales sampled per training prompt.")
    ] = 20,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Optimiser steps.")] = 100,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="RATE", min=0.0, help="Peak learning rate.")
    ] = 1e-4,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the sampling and of the order of batches.")
    ] = 0,
) -> None:
    """M-step of EM: fit p(answer | prompt, rationale) on rationales sampled from a run.

    It writes an adapter; the next run scores with it through rewards.adapter.
    """
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.m_step import fit, write

    folder, checked = open_run(run)
    console.print(
        f"Drawing {samples:,} rationales for each of {len(checked.prompts):,} prompts, then {steps:,} steps ..."
    )
    fitted = fit(checked, folder, samples, steps, learning_rate, seed, console.print)
    written = write(fitted.files, folder.path)
    tenth = max(1, steps // 10)
    first, last = (sum(part) / len(part) for part in (fitted.losses[:tenth], fitted.losses[-tenth:]))
    console.print(
        f"Cross-entropy {first:.3f} -> {last:.3f} nats. Written: {written}\n"
        f"The next E-step: tributary train RECIPE rewards.adapter={written.absolute()} --run ANOTHER_FOLDER",
        soft_wrap=True,
    )


def open_run(run: Path) -> "tuple[RunFolder, Checked]":
    """The folder and the checked configuration of a run."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config
    from deploy.driver.preflight import check

    folder = RunFolder.open(run)
    return folder, check(parse_config(folder.read_config(), source=f"{run}/config.toml"))
