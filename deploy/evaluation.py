"""Judge a run: samples of the base model and of the adapter, what the task says of them, and the pictures."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine import Engine
from actors.rollout import sample
from buffer.types import AdapterFiles, AdapterVersion, IntArray, Prompt
from deploy.checks import Checked
from deploy.plots import plot_histogram, plot_training
from deploy.run_folder import RunFolder

Responses = dict[str, list[IntArray]]
"""Prompt id -> its responses."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of one sampler."""

    metrics: dict[str, float]
    responses: Responses


def judge(checked: Checked, responses: Responses) -> Judged:
    """What the task says of the samples."""
    return Judged(checked.task.evaluate(responses), responses)


def draw(
    checked: Checked, adapter: tuple[AdapterVersion, AdapterFiles], n: int, base_too: bool, seed: int
) -> tuple[Responses | None, Responses]:
    """n on-policy responses of each prompt, of the base model (if `base_too`) and of the adapter, from one engine.

    The adapter's digest and canary are checked first (AdapterError).
    """
    with tempfile.TemporaryDirectory(prefix="tributary-adapters-") as scratch:
        engine = Engine(checked.spec, checked.config.actors, Path(scratch), seed, on_gpu=checked.config.actors.gpus > 0)
        engine.set_threads(checked.config.evaluation.threads or os.cpu_count() or 1)
        engine.serve(*adapter)
        base = _draw(engine, checked.prompts, n, use_base_model=True) if base_too else None
        return base, _draw(engine, checked.prompts, n, use_base_model=False)


def texts(checked: Checked, responses: Mapping[str, Sequence[IntArray]]) -> list[tuple[str, str]]:
    """(prompt, response) as text, in order."""
    prompt_text = {prompt.id: prompt.text for prompt in checked.prompts}
    return [
        (prompt_text[prompt_id], checked.tokenizer.decode(tokens.tolist(), skip_special_tokens=False))
        for prompt_id, drawn in responses.items()
        for tokens in drawn
    ]


def histogram(checked: Checked, responses: Responses) -> Any:
    """The task's histogram of its samples, where it has one, else None."""
    count = getattr(checked.task, "histogram", None)
    return None if count is None else count([r for drawn in responses.values() for r in drawn])


def explanations(checked: Checked) -> dict[str, str]:
    """What the task's figures mean, in words, where it says so."""
    return dict(getattr(checked.task, "explanations", {}))


def write_plots(folder: RunFolder, checked: Checked, before: Judged | None, after: Judged | None) -> None:
    """training.png, and histogram.png for a task that counts its outcomes."""
    log_z, _ = checked.task.log_mass()
    rows = folder.metrics()
    if rows:
        plot_training(folder.plots / "training.png", rows, log_z if np.isfinite(log_z) else None)
    if before and after:
        counts = histogram(checked, before.responses), histogram(checked, after.responses)
        if counts[0] is not None:
            n = [sum(map(len, judged.responses.values())) for judged in (before, after)]
            plot_histogram(
                folder.plots / "histogram.png", counts[0], counts[1], n[0], n[1], title=checked.prompts[0].text
            )


def _draw(engine: Engine, prompts: Sequence[Prompt], n: int, use_base_model: bool) -> Responses:
    return {prompt.id: sample(engine, prompt, n, use_base_model) for prompt in prompts}
