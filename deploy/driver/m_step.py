"""The M-step of EM on a run: rationales from its policy, an adapter that makes the right answer likely behind them.

train (E-step) -> m-step -> train with rewards.adapter (the next E-step) -> ...
"""

import os
from pathlib import Path

import numpy as np

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, Prompt
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.evaluation import draw
from deploy.driver.preflight import Checked
from learner.m_step import Choice, Fitted, m_step
from lm.load import device_of
from rewards.task import TRAIN, Task

FOLDER = "likelihood"
"""Of the adapter, in the run's folder."""


def fit(checked: Checked, folder: RunFolder, samples: int, steps: int, rate: float, seed: int) -> Fitted:
    """Draw `samples` rationales of each training prompt and fit the adapter on them.

    ConfigError for a task that does not ask for two answers or more, the right one first.
    """
    import torch

    prompts = list(checked.task.prompts(TRAIN))
    _check(checked.task, prompts)
    version = folder.version()
    [drawn] = draw(checked, prompts, (version, folder.adapter()), samples, base_too=False, seed=seed)
    choices = []
    for prompt in prompts:
        questions = checked.task.score_requests(prompt)
        for sampled in drawn[prompt.id]:
            context = np.concatenate([questions[0].context, sampled.token_ids]).astype(np.int32)
            choices.append(Choice(context, [question.target for question in questions]))
    torch.set_num_threads(checked.config.evaluation.threads or os.cpu_count() or 1)
    learner = checked.config.learner.model_copy(update={"steps": steps, "learning_rate": rate})
    return m_step(checked.spec, choices, learner, device_of(learner.device), seed)


def write(files: AdapterFiles, run: Path) -> Path:
    """The PEFT folder to name in `rewards.adapter`."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(files.weights)
    (folder / "adapter_config.json").write_text(files.config_json)
    return folder


def _check(task: Task, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        targets = [question.target for question in task.score_requests(prompt)]
        if len(targets) < 2 or not all(map(len, targets)):
            raise ConfigError(
                f"an M-step needs a task that asks for two answers or more behind each string, the right one first; "
                f"{type(task).__name__} asks for {sum(map(bool, map(len, targets)))}. The task subjectivity is one."
            )
