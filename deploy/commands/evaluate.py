"""`tributary evaluate`, `tributary sample` and `tributary m-step`: what a run has learned."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from deploy.formatting import console, visible

if TYPE_CHECKING:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.driver.preflight import Checked

RunDir = Annotated[Path, typer.Option("--run", help="The run's folder.")]
Split = Annotated[str, typer.Option("--split", help="Of the task's prompts.")]


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
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.evaluation import explanations, judge, write_evaluation, write_plots
    from deploy.driver.samples import draw, judged_prompts, score_samples
    from deploy.models.judges import find_judges, left_out
    from deploy.telemetry.live_view import before_after_table
    from rewards.judging.posterior import resampled_unit

    folder, checked = _open(run)
    chosen, judges = judged_prompts(checked, split, prompts), find_judges()
    n = samples or checked.config.evaluation.samples
    of = f"{len(chosen):,} of {len(checked.task.prompts(split)):,} prompts of split {split}"
    console.print(f"Drawing {n:,} samples of each of {of}, from the base model and from {run}/adapter ...")
    version = folder.version()
    drawn = draw(checked, chosen, (version, folder.adapter()), n, base_too=True, seed=seed)
    console.print("Scoring and judging them ...")
    before, after = (judge(checked, some, judges, n) for some in score_samples(checked, chosen, drawn))
    more = {"samples_a_prompt": n, "seed": seed, "adapter_sha256": version.digest}
    written = write_evaluation(folder, checked, before, after, split, more)
    write_plots(folder, checked, before, after, split)
    console.print(before_after_table(before.figures, after.figures, explanations(checked)))
    unit = resampled_unit(after.samples)
    console.print(f"Intervals hold 95 %: bootstrap over {unit}; of the task's own figures, as the task says.")
    for said in dict.fromkeys((before.problem, after.problem, left_out(checked.task, after.figures, judges))):
        if said:
            console.print(f"[yellow]{escape(visible(said))}[/yellow]", soft_wrap=True)
    console.print(f"Written: {run}/{written} and {run}/plots")


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
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.samples import draw, judged_prompts, named_prompts, sample_lines, score_samples

    folder, checked = _open(run)
    chosen = named_prompts(checked, split, prompt) if prompt else judged_prompts(checked, split)
    [drawn] = draw(checked, chosen, (folder.version(), folder.adapter()), n, base_too=False, seed=seed)
    if as_json:
        [rated] = score_samples(checked, chosen, [drawn])
        sys.stdout.writelines(f"{line}\n" for line in sample_lines(checked, rated))
        if unscored := n * len(chosen) - sum(map(len, rated.values())):
            typer.echo(f"{unscored} samples were left out: their reward failed.", err=True)
        return
    for one in chosen:
        for sampled in drawn[one.id]:
            response = checked.tokenizer.decode(sampled.token_ids.tolist(), skip_special_tokens=False)
            console.print(f"[dim]{escape(visible(one.text))}[/dim]{escape(visible(response))}", soft_wrap=True)


def m_step(
    run: RunDir,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Rationales of each training prompt.")] = 20,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 100,
    rate: Annotated[float, typer.Option("--learning-rate", min=0.0, help="Peak.")] = 1e-4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampling and of the order of batches.")] = 0,
) -> None:
    """EM: fit p(answer | prompt, rationale) on rationales of a run; the next run scores with what comes out."""
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.m_step import fit, write

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


def _open(run: Path) -> "tuple[RunFolder, Checked]":
    """A run's folder and its checked configuration."""
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config
    from deploy.driver.preflight import check

    folder = RunFolder.open(run)
    return folder, check(parse_config(folder.read_config(), source=f"{run}/config.toml"))
