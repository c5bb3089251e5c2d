"""`tributary sample`: print samples of a finished run."""

import sys
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
from deploy.commands.evaluate import EngineSeed, MethodName, RunDir, Split, open_run
from deploy.formatting import console, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actors.segments import Sampled
    from buffer.types import AdapterFiles, AdapterVersion, Prompt
    from deploy.driver.preflight import Checked
    from deploy.driver.samples import Samples
    from rewards.judging.correction import Method
    from rewards.task import Sample


PromptIds = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", metavar="ID", help="Id of a prompt; repeat it for several. Default: the prompts of `evaluate`."
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per line: prompt, text, log_q, log_reward, terms (nats)."),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Correct the samples with their rewards until they follow the target, from four times as many draws: "
        "by rejection, which is exact, where the task lists its strings, else by Metropolis-Hastings.",
    ),
]


def sample(
    run: RunDir,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Samples per prompt.")] = 10,
    split: Split = "train",
    prompt: PromptIds = None,
    as_json: AsJson = False,
    exact: Exact = False,
    method: MethodName = "",
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    greedy: Greedy = False,
    beam: Beam = 0,
    diverse_beam: DiverseBeam = 0,
    best_of: BestOf = 1,
    shots: Shots = 0,
    max_tokens: MaxTokens = 0,
    seed: EngineSeed = 0,
) -> None:
    """Print samples from the final adapter of a run, one per line."""
    from deploy.commands.environment import quiet_engine

    quiet_engine()
    from deploy.driver.decoding import decode, score_decoded
    from deploy.driver.exact_samples import PROPOSALS, method_of
    from deploy.driver.samples import judged_prompts, named_prompts, sample_lines

    given = "--exact" if exact or method else ""
    decoding = decoding_of(temperature, top_p, greedy, beam, diverse_beam, best_of, shots, max_tokens, given)
    folder, checked = open_run(run)
    chosen = named_prompts(checked, split, prompt) if prompt else judged_prompts(checked, split)
    chosen_method = method_of(checked, method) if exact or method else None
    number = n * PROPOSALS if chosen_method else n
    [drawn] = decode(checked, folder, chosen, number, decoding, base_too=False, seed=seed, say=_aside)
    if not as_json and not chosen_method and best_of == 1:
        _print_samples(checked, chosen, drawn)
        return
    [scored] = score_decoded(checked, chosen, [drawn], decoding, seed)
    if unscored := sum(map(len, drawn.values())) // best_of - sum(map(len, scored.values())):
        _aside(f"{unscored} samples are omitted: their reward failed.")
    if chosen_method:
        adapter = folder.version(), folder.adapter()
        scored = _corrected(checked, adapter, chosen, scored, n, chosen_method, seed)
    if as_json:
        sys.stdout.writelines(f"{line}\n" for line in sample_lines(checked, scored))
    else:
        _print_samples(checked, chosen, scored)


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
