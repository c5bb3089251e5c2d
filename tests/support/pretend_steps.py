"""Steps of the learner and scores of the reward side on any device, for a test that compares two.

    python -m tests.support.pretend_steps MODEL FOLDER      on the pretended device, which autograd must see first

Prints one JSON object: objective -> figures of the second step, and "scorer" -> log-probabilities.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from buffer.types import AdapterFiles, AdapterVersion
from learner.adapter import adapter_tensors, load_adapter
from learner.checkpoint import Checkpoints
from learner.config import LearnerAdvanced, LearnerConfig
from learner.learner import Learner
from learner.policy import LoraPolicy
from rewards.base_model import BaseModel
from rewards.task import ScoreRequest
from tests.support.learner_process import LEARNING_RATE, batch
from tests.support.tiny import TinyTask, tiny_spec, tiny_trajectory

OBJECTIVES = ("subtb", "group_subtb")
"""One that sums over trajectories and one that compares them."""
FIGURES = ("loss", "grad_norm", "log_z", "kl", "total_variation")


class NoLease:
    """A lease that nobody else wants."""

    def take(self) -> None:
        """There is no other learner."""

    def require(self) -> None:
        """There is no other learner."""


class NoBuffer:
    """The calls that a learner makes to the buffer, without effect."""

    lease = NoLease()

    def newest_version(self) -> int:
        """No version was published before."""
        return -1

    def note_version(self, version: int) -> None:
        """Forget it."""

    def reprioritize(self, ids: Any, priorities: Any) -> None:
        """Forget them."""


def learn(model: Path, folder: Path, device: torch.device, objective: str) -> dict[str, Any]:
    """Figures of the second step, taken by a learner that continued from the first one's checkpoint."""
    task = TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
    spec = replace(tiny_spec(model), min_actions=1)
    support = [tiny_trajectory(task, string) for string in task.log_r]
    published: list[AdapterVersion] = []
    figures: dict[str, Any] = {}
    for step, max_tokens in enumerate((0, 24)):  # one pass, and several
        policy = LoraPolicy(spec, device, gradient_checkpointing=step == 1)
        set_frequencies(policy.model)
        load_adapter(policy, random_adapter(policy))
        config = LearnerConfig(
            objective=objective,
            learning_rate=LEARNING_RATE,
            warmup_steps=0,
            max_tokens=max_tokens,
            advanced=LearnerAdvanced(diagnose_every=1),
        )  # type: ignore[arg-type]

        def publish(version: AdapterVersion, files: AdapterFiles) -> None:
            published.append(version)

        learner = Learner(
            policy, NoBuffer(), config, publish, task.prompts()[0], Checkpoints(folder, keep=1), support=support
        )  # type: ignore[arg-type]
        figures = learner.step(batch(task, step))
        learner._publisher.publish(step + 1, batch(task, step)[0].trajectory)
        learner.save()
    canary = published[-1].canary.log_probs.tolist()
    return {name: float(figures[name]) for name in FIGURES if name in figures} | {"canary": canary}


def random_adapter(policy: LoraPolicy) -> dict[str, Tensor]:
    """The same on every device, whose generators differ."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in adapter_tensors(policy).items()
    }


def set_frequencies(model: Any) -> None:
    """Set the rotary frequencies, which transformers leaves unset on a device that it does not know."""
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq.copy_(module.compute_default_rope_parameters(module.config)[0])


def score(model: Path, device: torch.device) -> list[list[float]]:
    """Tokens, stops and targets of three requests: masked, open, and with a target behind every prefix."""
    scorer = BaseModel(tiny_spec(model), device)
    set_frequencies(scorer._model.model)
    context, response = np.array([3], np.int32), np.array([4, 5, 6], np.int32)
    requests = [
        ScoreRequest(context, masked=True),
        ScoreRequest(context),
        ScoreRequest(context, np.array([5, 6], np.int32)),
    ]
    return [
        [*scores.tokens.tolist(), *scores.stop.tolist(), *scores.target.tolist()]
        for scores in scorer.score(requests, [response] * len(requests))
    ]


def compute(model: Path, folder: Path, device: torch.device) -> dict[str, Any]:
    """All figures of one device."""
    return {name: learn(model, folder / name, device, name) for name in OBJECTIVES} | {"scorer": score(model, device)}


if __name__ == "__main__":
    from tests.support.pretend_device import DEVICE

    sys.stdout.write(json.dumps(compute(Path(sys.argv[1]), Path(sys.argv[2]), DEVICE)) + "\n")
