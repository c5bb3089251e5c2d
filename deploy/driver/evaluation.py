"""Judge a run: figures of the base model's and the adapter's samples, their files and their plots."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from deploy.artifacts.run_folder import RunFolder
from deploy.driver.certificate import EXPLANATIONS as CERTIFICATE_EXPLANATIONS
from deploy.driver.certificate import Certificate
from deploy.driver.exact_draws import SIMULATED
from deploy.driver.preflight import Checked
from deploy.driver.samples import Samples
from deploy.report.run_plots import Side, plot_figures, plot_histogram, plot_posterior, plot_training
from deploy.telemetry.certificate_table import certificate_table
from rewards.judging import posterior
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.task import TRAIN, Figure, Judges


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of one sampler."""

    figures: Mapping[str, Figure]
    """The task's own figures, then those of how well the samples follow the target (rewards/judging/posterior.py)."""
    samples: Samples
    temperature: float
    """Reward temperature T of the target R^(1/T) that the samples were judged by."""
    problem: str | None = None
    """The reason why the task's own figures are missing."""

    @property
    def metrics(self) -> dict[str, float]:
        """Each figure without its interval."""
        return {name: f.value if isinstance(f, (Interval, Bound)) else f for name, f in self.figures.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """(low, high) of the figures that have an interval."""
        return {name: (f.low, f.high) for name, f in self.figures.items() if isinstance(f, Interval)}

    @property
    def bounds(self) -> dict[str, str]:
        """ "at least" or "at most" for the figures that are too small or too large on average."""
        return {name: f.side for name, f in self.figures.items() if isinstance(f, Bound)}


def judge(checked: Checked, samples: Samples, judges: Judges, temperature: float, n_drawn: int | None = None) -> Judged:
    """The task's figures of the samples, and how well they follow R^(1/T), T = `temperature`.

    `n_drawn` responses were drawn per prompt (default: as the recipe says); those that could not be scored are counted
    as `unscored`. A task whose `evaluate` fails loses its own figures only: `problem` says why. Where both have a
    figure of the same name, the task's counts.
    """
    n = checked.config.evaluation.samples if n_drawn is None else n_drawn
    unscored = n * len(samples) - sum(map(len, samples.values()))
    scored = {prompt_id: prompt_samples for prompt_id, prompt_samples in samples.items() if prompt_samples}
    figures, problem = task_figures(checked, scored, judges)
    target_figures = posterior.posterior_figures(scored, temperature)
    figures |= {name: figure for name, figure in target_figures.items() if name not in figures}
    return Judged(figures | {"unscored": float(unscored)}, samples, temperature, problem)


def task_figures(checked: Checked, samples: Samples, judges: Judges) -> tuple[dict[str, Figure], str | None]:
    """The task's own figures of scored samples; none, and the reason, where its `evaluate` fails."""
    try:
        return _checked_figures(checked.task.evaluate(samples, judges) if samples else {}), None
    except Exception as error:  # user code, at the end of a long run
        return {}, f"evaluate of task {checked.config.task.name!r} raised {type(error).__name__}: {error}"


def explanations(checked: Checked) -> dict[str, str]:
    """Figure -> its meaning in words."""
    unscored = {"unscored": "Strings without a reward."}
    return {**posterior.EXPLANATIONS, **unscored, **checked.task.explanations}


def notes(checked: Checked, judged: Judged, split: str = TRAIN) -> list[str]:
    """The target and the prompts that a table of figures is of, one sentence each."""
    last = checked.config.learner.reward_temperature_end
    early = f", which training had reached; the recipe ends at {last:g}" if judged.temperature != last else ""
    target = f"Target: R^(1/T) at reward temperature T = {judged.temperature:.3g}{early}."
    return [target, _note_on_prompts(checked, len(judged.samples), split)]


def evaluation_file(split: str) -> str:
    """Name of the file in a run's folder: evaluation.json, or evaluation-SPLIT.json for a split not trained on."""
    return f"evaluation{_suffix(split)}.json"


def write_evaluation(
    folder: RunFolder,
    before: Judged,
    after: Judged,
    certificates: tuple[Certificate, Certificate],
    split: str,
    more: Mapping[str, Any],
) -> str:
    """Write the file of a split; returns its name."""
    name = evaluation_file(split)
    both = {"before": before, "after": after}
    values = {
        "split": split,
        "prompts": len(after.samples),
        "reward_temperature": after.temperature,
        "metrics": {key: judged.metrics for key, judged in both.items()},
        "intervals": {key: judged.intervals for key, judged in both.items()},
        "bounds": {key: judged.bounds for key, judged in both.items()},
        "posterior_intervals_over": posterior.resampled_unit(after.samples),
        "certificate": {key: c.as_dict() for key, c in zip(both, certificates, strict=True)},
        "problems": [judged.problem for judged in both.values() if judged.problem],
    }
    folder.write_json(name, {**values, **more})
    return name


def show_certificates(of_base: Certificate, of_trained: Certificate) -> Table:
    """Both certificates as a table."""
    return certificate_table(
        (of_base.figures, of_trained.figures),
        (of_base.verdict.text, of_trained.verdict.text),
        CERTIFICATE_EXPLANATIONS,
        [of_trained.source],
    )


def write_plots(
    folder: RunFolder, checked: Checked, before: Judged | None, after: Judged | None, split: str = TRAIN
) -> None:
    """Draw training.png, and from the samples posterior.png, figures.png and, for a task that counts outcomes,
    histogram.png; each as .svg too. The names end in the split unless it is trained on."""
    rows, suffix = folder.metrics(), _suffix(split)
    if rows:
        plot_training(folder.plots / "training.png", rows, checked.log_z_exact)
    if not (before and after):
        return
    log_z_by_prompt = _estimate_log_z(before, after)
    base, trained = (_side(judged, log_z_by_prompt) for judged in (before, after))
    plot_posterior(folder.plots / f"posterior{suffix}.png", base, trained, after.temperature)
    plot_figures(folder.plots / f"figures{suffix}.png", before.figures, after.figures)
    pooled = [[s for samples in judged.samples.values() for s in samples] for judged in (before, after)]
    counts = [checked.task.histogram(samples) for samples in pooled]
    if counts[0] is not None and counts[1] is not None:
        n = [len(samples) for samples in pooled]
        title = checked.prompts[0].text if len(after.samples) == 1 else f"{len(after.samples)} prompts"
        plot_histogram(folder.plots / f"histogram{suffix}.png", counts[0], counts[1], n[0], n[1], title=title)


def _note_on_prompts(checked: Checked, shown: int, split: str) -> str:
    if split == SIMULATED:
        return f"Prompts: {shown:,} whose exact draw the base model wrote."
    total = len(checked.task.prompts(split))
    if split != TRAIN:
        return f"Prompts: {shown:,} of the {total:,} of split {split}, which are not trained on."
    others = " or ".join(name for name in checked.task.splits if name != TRAIN)
    return (
        (f"Prompts: {shown:,} of the {total:,} that are trained on." if total > 1 else "Prompt: the one trained on.")
        + (f" For others: tributary evaluate --split {others}." if others else "")
    )  # fmt: skip


def _checked_figures(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The figures of a user's task, which may return anything. TypeError for one that is not a `Figure`."""
    types = (Interval, Bound, float, int, np.number)
    if invalid := [name for name, figure in figures.items() if not isinstance(figure, types)]:
        raise TypeError(f"figure {invalid[0]!r} is {figures[invalid[0]]!r}, and must be a number, Interval or Bound")
    return {str(name): f if isinstance(f, (Interval, Bound)) else float(f) for name, f in figures.items()}


def _estimate_log_z(before: Judged, after: Judged) -> dict[str, float]:
    """Prompt id -> log Z, estimated from the trained model's samples (they vary less), else the base model's; nats."""
    return {
        prompt_id: posterior.estimate_log_z(trained or before.samples.get(prompt_id, ()), after.temperature)
        for prompt_id, trained in after.samples.items()
    }


def _side(judged: Judged, log_z: Mapping[str, float]) -> Side:
    """One model's half of posterior.png; `log_z`: prompt id -> log Z, nats."""
    rows = [
        (s.log_q, s.log_reward / judged.temperature - log_z.get(prompt_id, math.nan))
        for prompt_id, samples in judged.samples.items()
        for s in samples
    ]
    log_q, log_p = np.array(rows).reshape(-1, 2).T
    return Side(log_q, log_p, judged.metrics["slope"], judged.metrics["correlation"], judged.figures["ess"])


def _suffix(split: str) -> str:
    return "" if split == TRAIN else f"-{split}"
