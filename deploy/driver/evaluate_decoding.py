"""Evaluate base model and adapter of a run under another way to decode: a temperature, a beam search, best of N.

The strings do not follow q then, so there is no certificate and no figure of the target: only the task's own figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from buffer.errors import ConfigError
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.decoding import Decoding, decode, score_decoded
from deploy.driver.evaluation import task_figures
from deploy.driver.exact_draws import SIMULATED
from deploy.driver.preflight import Checked
from deploy.driver.samples import judged_prompts, samples_a_prompt
from deploy.models.judges import find_judges
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.task import Figure

FILE = "evaluation-decoding.json"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The task's figures of both samplers."""

    before: Mapping[str, Figure]
    after: Mapping[str, Figure]
    strings: int
    """Strings of the adapter that were judged."""
    problem: str | None
    """Why figures are missing."""


def evaluate_decoding(
    checked: Checked,
    folder: RunFolder,
    split: str,
    samples: int | None,
    prompts: int | None,
    decoding: Decoding,
    seed: int,
    say: Callable[[str], None],
) -> Decoded:
    """Draw, judge, and write FILE into the run's folder; None stands for the recipe's numbers. `say` tells how far it
    is."""
    if split == SIMULATED:
        raise ConfigError(
            f"--split {SIMULATED} is for samples of the policy: use another split with {decoding.words()}."
        )
    chosen, n = judged_prompts(checked, split, prompts), samples_a_prompt(checked, samples)
    drawn = decode(checked, folder, chosen, n, decoding, base_too=True, seed=seed, say=say)
    judges, scored = find_judges(), score_decoded(checked, chosen, drawn, decoding, seed)
    (before, problem), (after, _) = (task_figures(checked, of_model, judges) for of_model in scored)
    both = {"before": before, "after": after}
    folder.write_json(
        FILE,
        {
            "split": split,
            "decoding": asdict(decoding),
            "samples_a_prompt": n,
            "prompts": len(chosen),
            "seed": seed,
            "metrics": {key: {k: _value(f) for k, f in figures.items()} for key, figures in both.items()},
            "intervals": {
                key: {k: (f.low, f.high) for k, f in figures.items() if isinstance(f, Interval)}
                for key, figures in both.items()
            },
        },
    )
    return Decoded(before, after, sum(map(len, scored[-1].values())), problem)


def _value(figure: Figure) -> float:
    return figure.value if isinstance(figure, Interval | Bound) else figure
