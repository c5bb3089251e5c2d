"""Evaluate base model and adapter of a run under another way to decode: a temperature, a nucleus, greedy.

The samples do not follow q then, so there is no certificate and no figure of the target: only the task's own figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actors.behaviour import Behaviour
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.evaluation import task_figures
from deploy.driver.preflight import Checked
from deploy.driver.samples import draw, judged_prompts, samples_a_prompt, score_samples
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
    samples: int
    """Drawn per prompt."""
    problem: str | None
    """Why figures are missing."""


def evaluate_decoding(
    checked: Checked,
    folder: RunFolder,
    split: str,
    samples: int | None,
    prompts: int | None,
    behaviour: Behaviour,
    seed: int,
    say: Callable[[str], None],
) -> Decoded:
    """Draw, judge, and write FILE into the run's folder; None stands for the recipe's numbers. `say` tells how far it
    is."""
    chosen, n = judged_prompts(checked, split, prompts), samples_a_prompt(checked, samples)
    drawn = draw(
        checked, chosen, (folder.version(), folder.adapter()), n, base_too=True, seed=seed, say=say, behaviour=behaviour
    )
    judges = find_judges()
    (before, problem), (after, _) = (
        task_figures(checked, of_model, judges) for of_model in score_samples(checked, chosen, drawn)
    )
    both = {"before": before, "after": after}
    folder.write_json(
        FILE,
        {
            "split": split,
            "temperature": behaviour.temperature,
            "top_p": behaviour.top_p,
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
    return Decoded(before, after, n, problem)


def _value(figure: Figure) -> float:
    return figure.value if isinstance(figure, Interval | Bound) else figure
