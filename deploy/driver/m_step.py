"""The M-step of EM on a run: draws rationales from its policy and fits an adapter that predicts the answer from them.

train (E-step) -> m-step -> train with rewards.adapter (the next E-step) -> ...
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, Prompt
from deploy.artifacts.adapter_folder import write_adapter
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.preflight import Checked
from deploy.driver.samples import draw
from learner.m_step import Choice, Fitted, m_step
from lm.load import device_of
from rewards.task import TRAIN, Task

FOLDER = "likelihood"
"""Folder of the fitted adapter, inside the run's folder."""


def fit(
    checked: Checked,
    folder: RunFolder,
    samples: int,
    steps: int,
    learning_rate: float,
    seed: int,
    say: Callable[[str], None],
) -> Fitted:
    """Draw `samples` rationales of each training prompt and fit the adapter on them in `steps` optimiser steps.

    ConfigError unless the task scores two or more answers, the right one first.
    """
    import torch

    prompts = list(checked.task.prompts(TRAIN))
    _check(checked.task, prompts)
    version = folder.version()
    [drawn] = draw(checked, prompts, (version, folder.adapter()), samples, base_too=False, seed=seed, say=say)
    choices = []
    for prompt in prompts:
        requests = checked.task.score_requests(prompt)
        for sampled in drawn[prompt.id]:
            context = np.concatenate([requests[0].context, sampled.token_ids]).astype(np.int32)
            choices.append(Choice(context, [request.target for request in requests]))
    torch.set_num_threads(checked.config.evaluation.cores)
    learner = checked.config.learner.model_copy(update={"steps": steps, "learning_rate": learning_rate})
    return m_step(checked.spec, choices, learner, device_of(learner.device, learner.gpus), seed)


def write(files: AdapterFiles, run: Path) -> Path:
    """Write the adapter into the run's folder; returns the PEFT folder to name in `rewards.adapter`."""
    folder = run / FOLDER
    write_adapter(folder, files)
    return folder


def _check(task: Task, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        targets = [request.target for request in task.score_requests(prompt)]
        if len(targets) < 2 or not all(map(len, targets)):
            raise ConfigError(
                f"task {type(task).__name__} scores {sum(map(bool, map(len, targets)))} answers of prompt "
                f"{prompt.id!r}, and an M-step needs at least two, the right one first. Use a task such as "
                "subjectivity."
            )
