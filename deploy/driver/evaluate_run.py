"""Evaluate a finished run: draw, judge and certify base model and adapter on a split, and write the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from buffer.errors import ConfigError
from buffer.types import Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.adapter_log_q import load_log_q
from deploy.driver.certificate import Certificate, certify
from deploy.driver.describe_adapter import describe_adapter
from deploy.driver.evaluation import Judged, judge, write_evaluation, write_plots
from deploy.driver.exact_draws import SIMULATED, obstacle
from deploy.driver.known_strings import collect
from deploy.driver.preflight import Checked
from deploy.driver.samples import judged_prompts, samples_a_prompt
from deploy.models.judges import find_judges, omitted_figures
from learner.schedule import reward_temperature

EXACT_TRIES = 4
"""Draws of the base model per sample, from which exact draws are accepted."""
DEFAULT_SIMULATED = 20
"""Prompts of the split "simulated" where the recipe evaluates all prompts."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result for one split."""

    before: Judged
    after: Judged
    certificates: tuple[Certificate, Certificate]
    """The certificates of the base model and of the trained policy."""
    file: str
    """Name of the file in the run's folder."""
    problems: Sequence[str]
    """Why figures are missing."""


def evaluate_run(
    checked: Checked,
    folder: RunFolder,
    split: str,
    samples: int | None,
    prompts: int | None,
    tries: int | None,
    seed: int,
    say: Callable[[str], None],
) -> Evaluation:
    """Draw `samples` of each prompt from base model and adapter, and up to `tries` more of the base model for exact
    draws; None stands for the defaults. ConfigError for a split that does not exist. `say` tells what goes on."""
    given = None if split == SIMULATED else judged_prompts(checked, split, prompts)
    version, adapter, n = folder.version(), folder.adapter(), samples_a_prompt(checked, samples)
    temperature, judges = reward_temperature(version.learner_step, checked.config.learner), find_judges()
    wanted: Sequence[Prompt] | int
    if given is None:
        wanted = _simulated_prompts(checked, temperature, prompts)
        number = f"{wanted:,} simulated prompts"
    else:
        wanted = given
        number = f"{len(wanted):,} of the {len(checked.task.prompts(split)):,} prompts of split {split}"
    say(f"Drawing {n:,} samples for each of {number}, from the base model and from {folder.path}/adapter ...")
    chosen, strings = collect(
        checked, folder, (version, adapter), wanted, n, tries or EXACT_TRIES * n, temperature, seed, say
    )
    say("Evaluating them ...")
    before, after = (judge(checked, drawn, judges, temperature, n) for drawn in (strings.base, strings.trained))
    log_q = load_log_q(checked, adapter)
    base, trained = (certify(checked, chosen, strings, temperature, log_q, is_base) for is_base in (True, False))
    more = {"samples_a_prompt": n, "seed": seed, "adapter_sha256": version.digest}
    file = write_evaluation(folder, before, after, (base, trained), split, more)
    describe_adapter(checked, folder)
    write_plots(folder, checked, before, after, split)
    problems = (before.problem, after.problem, omitted_figures(checked.task, after.figures, judges))
    return Evaluation(before, after, (base, trained), file, [p for p in dict.fromkeys(problems) if p])


def _simulated_prompts(checked: Checked, temperature: float, prompts: int | None) -> int:
    """The number of prompts to simulate. ConfigError where none can be."""
    problem = "the task lists its strings" if checked.task.support() else obstacle(checked, temperature)
    if problem:
        raise ConfigError(f"--split {SIMULATED}: no prompts can be simulated, because {problem}. Use another split.")
    return prompts or checked.config.evaluation.prompts or DEFAULT_SIMULATED
