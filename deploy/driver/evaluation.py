"""Judge a run: samples of the base model and of the adapter, what they say of the target, and the pictures."""

import gc
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine import Engine
from actors.rollout import sample
from actors.segments import Sampled
from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.preflight import Checked
from deploy.report.run_plots import Side, plot_figures, plot_histogram, plot_posterior, plot_training
from rewards.judging import posterior
from rewards.judging.bootstrap import Interval
from rewards.load_scorer import load_scorer
from rewards.scorer import Score, Scorer, sample_terms
from rewards.task import TRAIN, Figure, Judges, Sample

Drawn = Mapping[str, Sequence[Sampled]]
"""Prompt id -> what an engine drew."""
Samples = Mapping[str, Sequence[Sample]]
"""Prompt id -> what was drawn, with log R."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of one sampler."""

    figures: Mapping[str, Figure]
    """The task's own, then how well the samples follow the target (rewards/judging/posterior.py)."""
    samples: Samples
    problem: str | None = None
    """Why the task's own figures are missing."""

    @property
    def metrics(self) -> dict[str, float]:
        """Each figure without its interval."""
        return {name: f.value if isinstance(f, Interval) else f for name, f in self.figures.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Ends of the intervals, of the figures that have one."""
        return {name: (f.low, f.high) for name, f in self.figures.items() if isinstance(f, Interval)}


def judge(checked: Checked, samples: Samples, judges: Judges, drawn: int | None = None) -> Judged:
    """What the task says of the samples, and how well they follow the target at the recipe's last temperature.

    `drawn` strings of each prompt, by default as many as the recipe says; those without a score are counted
    (`unscored`). A task whose `evaluate` fails is a problem to be told, and loses nothing else. Of a name that both
    have, the task's figure counts.
    """
    n = checked.config.evaluation.samples if drawn is None else drawn
    unscored = n * len(samples) - sum(map(len, samples.values()))
    scored = {prompt_id: some for prompt_id, some in samples.items() if some}
    figures: dict[str, Figure] = {}
    problem = None
    try:
        figures = _checked_figures(checked.task.evaluate(scored, judges) if scored else {})
    except Exception as error:  # of the user's own code, at the end of a run
        problem = f"evaluate of task {checked.config.task.name!r} raised {type(error).__name__}: {error}"
    follows = posterior.posterior_figures(scored, checked.config.learner.reward_temperature_end)
    figures |= {name: figure for name, figure in follows.items() if name not in figures}
    return Judged(figures | {"unscored": float(unscored)}, samples, problem)


def explanations(checked: Checked) -> dict[str, str]:
    """What the figures mean, in words."""
    unscored = {"unscored": "strings without a reward"}
    return {**posterior.EXPLANATIONS, **unscored, **checked.task.explanations}


def judged_prompts(checked: Checked, split: str = TRAIN, most: int | None = None) -> list[Prompt]:
    """At most `most` prompts of a split (default: evaluation.prompts; 0: all), spread evenly. ConfigError: no such."""
    if split not in checked.task.splits:
        raise ConfigError(
            f"--split {split} is no split of task {checked.config.task.name!r}. It has: "
            f"{', '.join(checked.task.splits)}."
        )
    prompts = list(checked.task.prompts(split))
    n = (checked.config.evaluation.prompts if most is None else most) or len(prompts)
    return prompts if n >= len(prompts) else [prompts[k * len(prompts) // n] for k in range(n)]


def named_prompts(checked: Checked, split: str, ids: Sequence[str]) -> list[Prompt]:
    """The prompts of a split with these ids, in the order given. ConfigError where there is none."""
    known = {prompt.id: prompt for prompt in judged_prompts(checked, split, most=0)}
    if unknown := [name for name in ids if name not in known]:
        shown = ", ".join(list(known)[:10]) + (f", ... ({len(known):,} in all)" if len(known) > 10 else "")
        raise ConfigError(f"--prompt {unknown[0]} is no prompt of split {split!r}. It has: {shown}.")
    return [known[name] for name in ids]


def draw(
    checked: Checked,
    prompts: Sequence[Prompt],
    adapter: tuple[AdapterVersion, AdapterFiles],
    n: int,
    base_too: bool,
    seed: int,
) -> list[Drawn]:
    """n on-policy responses of each prompt, from one engine: of the base model first (if `base_too`), then of the
    adapter.

    The adapter's digest and canary are checked before (AdapterError). The engine is gone afterwards.
    """
    on_gpu = checked.config.actors.gpus > 0
    with tempfile.TemporaryDirectory(prefix="tributary-adapters-") as scratch:
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), seed, on_gpu, checked.task.tool)
        engine.set_threads(checked.config.evaluation.threads or os.cpu_count() or 1)
        engine.serve(*adapter)
        samplers = [True, False] if base_too else [False]
        drawn: list[Drawn] = [sample(engine, prompts, n, use_base) for use_base in samplers]
        del engine
    gc.collect()  # its memory is wanted for the frozen model
    return drawn


def score_samples(checked: Checked, prompts: Sequence[Prompt], drawn: Sequence[Drawn]) -> list[Samples]:
    """What `draw` gave, with log R. Responses that can't be scored are left out.

    The frozen base model is loaded here, where the task asks it anything.
    """
    config, base = checked.config, None
    if checked.task.needs_base_model:
        base = load_scorer(
            checked.spec, config.rewards, config.actors.max_model_len, config.actors.advanced.kv_cache_gib
        )
    scorer = Scorer(checked.task, base, config.rewards)
    return [{prompt.id: _rate(checked, scorer, prompt, some[prompt.id]) for prompt in prompts} for some in drawn]


def _rate(checked: Checked, scorer: Scorer, prompt: Prompt, drawn: Sequence[Sampled]) -> list[Sample]:
    scores = scorer.score([prompt] * len(drawn), [sampled.token_ids for sampled in drawn])
    return [
        Sample(sampled.token_ids, sampled.log_q, *sample_terms(score, checked.config.rewards.weights))
        for sampled, score in zip(drawn, scores, strict=True)
        if isinstance(score, Score)
    ]


def sample_lines(checked: Checked, samples: Samples) -> Iterator[str]:
    """Each sample as a JSON object in ASCII: prompt (its id), text, log_q, log_reward, terms; nats."""
    for prompt_id, some in samples.items():
        for one in some:
            text = checked.tokenizer.decode(one.token_ids.tolist(), skip_special_tokens=False)
            terms = dict(one.terms)
            yield json.dumps(
                {"prompt": prompt_id, "text": text, "log_q": one.log_q, "log_reward": one.log_reward, "terms": terms}
            )


def write_evaluation(
    folder: RunFolder, checked: Checked, before: Judged, after: Judged, split: str, more: Mapping[str, Any]
) -> str:
    """evaluation.json, or evaluation-SPLIT.json for a split that is not trained on; returns the name."""
    name = f"evaluation{_suffix(split)}.json"
    both = {"before": before, "after": after}
    values = {
        "split": split,
        "prompts": len(after.samples),
        "reward_temperature": checked.config.learner.reward_temperature_end,
        "metrics": {key: judged.metrics for key, judged in both.items()},
        "intervals": {key: judged.intervals for key, judged in both.items()},
        "posterior_intervals_over": posterior.resampled_unit(after.samples),
        "problems": [judged.problem for judged in both.values() if judged.problem],
    }
    folder.write_json(name, {**values, **more})
    return name


def write_plots(
    folder: RunFolder, checked: Checked, before: Judged | None, after: Judged | None, split: str = TRAIN
) -> None:
    """Of a run training.png; of samples posterior.png, figures.png and, for a task that counts outcomes,
    histogram.png, named after the split where it is not trained on. Each as .svg too."""
    log_z, _ = checked.task.log_mass()
    rows, suffix = folder.metrics(), _suffix(split)
    if rows:
        plot_training(folder.plots / "training.png", rows, log_z if np.isfinite(log_z) else None)
    if not (before and after):
        return
    log_z_of = _log_z_of(checked, before, after)
    sides = [_side(checked, judged, log_z_of) for judged in (before, after)]
    plot_posterior(folder.plots / f"posterior{suffix}.png", *sides)
    plot_figures(folder.plots / f"figures{suffix}.png", before.figures, after.figures)
    everything = [[s for some in judged.samples.values() for s in some] for judged in (before, after)]
    counts = [checked.task.histogram(some) for some in everything]
    if counts[0] is not None and counts[1] is not None:
        n = [len(some) for some in everything]
        title = checked.prompts[0].text if len(after.samples) == 1 else f"{len(after.samples)} prompts"
        plot_histogram(folder.plots / f"histogram{suffix}.png", counts[0], counts[1], n[0], n[1], title=title)


def _checked_figures(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """A user's task may answer anything."""
    wrong = [name for name, figure in figures.items() if not isinstance(figure, (Interval, float, int, np.number))]
    if wrong:
        raise TypeError(f"figure {wrong[0]!r} is {figures[wrong[0]]!r}, and must be a number or an Interval")
    return {str(name): f if isinstance(f, Interval) else float(f) for name, f in figures.items()}


def _log_z_of(checked: Checked, before: Judged, after: Judged) -> dict[str, float]:
    """Prompt id -> log Z as the trained samples estimate it: they vary less. The base model's where there are none."""
    temperature = checked.config.learner.reward_temperature_end
    return {
        prompt_id: posterior.log_z_of(some or before.samples.get(prompt_id, ()), temperature)
        for prompt_id, some in after.samples.items()
    }


def _side(checked: Checked, judged: Judged, log_z_of: Mapping[str, float]) -> Side:
    temperature = checked.config.learner.reward_temperature_end
    known = [(s, log_z_of.get(name, math.nan)) for name, some in judged.samples.items() for s in some]
    log_p = np.array([s.log_reward / temperature - log_z for s, log_z in known])
    figures = judged.metrics
    return Side(np.array([s.log_q for s, _ in known]), log_p, figures["slope"], figures["correlation"], figures["ess"])


def _suffix(split: str) -> str:
    return "" if split == TRAIN else f"-{split}"
