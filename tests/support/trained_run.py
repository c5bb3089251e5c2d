"""A run's folder with an adapter that was not trained: its weights are random, so it differs from the base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from buffer.types import AdapterFiles
from deploy.artifacts.run_folder import RunFolder
from deploy.config import parse_config, shown_config
from deploy.driver.describe_adapter import describe_adapter, portable
from deploy.driver.preflight import Checked, check
from learner.adapter import adapter_files, adapter_version
from learner.policy import LoraPolicy
from tests.support.tiny import TinyTask, tiny_trajectory

STEPS = 300


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run that looks finished, without a summary."""

    folder: RunFolder
    checked: Checked
    files: AdapterFiles
    policy: LoraPolicy
    """The policy with the adapter, as the learner computes it."""


def make_trained_run(path: Path, recipe: Mapping[str, Any], spread: float = 0.3) -> TrainedRun:
    """Write the folder, as a run of `recipe` on the tiny model and `TinyTask` does at its end."""
    checked = check(parse_config(recipe, "the test's recipe"))
    folder = RunFolder.create(path)
    folder.write_config(shown_config(checked.config))
    torch.manual_seed(9)  # of A, which the policy draws, and of B; the stop ends 3.7 % of the responses
    policy = LoraPolicy(checked.spec, torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=spread)
    files = adapter_files(policy)
    example = tiny_trajectory(TinyTask(checked.tokenizer), (0, 1))
    folder.write_adapter(portable(files, checked.config.model.name))
    folder.write_version(adapter_version(policy, files, 1, STEPS, example, tolerance=5e-4))
    describe_adapter(checked, folder)
    return TrainedRun(folder, checked, files, policy)
