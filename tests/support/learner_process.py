"""A learner in its own process, on fixed batches, for tests that kill it.

    python tests/support/learner_process.py MODEL CHECKPOINTS REDIS_URL STEPS RESULT

Writes the adapter's bytes to RESULT when all steps are done. Batch k is the same in every process.
"""

import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from tokenizers import Tokenizer

from buffer.config import BufferConfig
from buffer.drawn_rows import Drawn
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.store.item_store import Handle
from learner.adapter import adapter_files
from learner.checkpoint import Checkpoints
from learner.config import LearnerAdvanced, LearnerConfig
from learner.learner import Learner
from learner.policy import LoraPolicy
from tests.support.tiny import TinyTask, tiny_spec, tiny_trajectory

LEARNING_RATE = 5e-3


def batch(task: TinyTask, step: int) -> list[Drawn]:
    """The batch of one step: eight strings drawn by the step's own generator."""
    strings = list(task.log_r)
    chosen = np.random.default_rng([7, step]).integers(len(strings), size=8)
    return [Drawn(Handle(int(k), 0), tiny_trajectory(task, strings[int(k)]), False, 0, "on_policy") for k in chosen]


def learn(model: Path, checkpoints: Path, redis_url: str, steps: int) -> bytes:
    """Continue from the newest checkpoint, or start; save after every step; return the adapter."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = TinyTask(Tokenizer.from_file(str(model / "tokenizer.json")))
    learner = Learner(
        LoraPolicy(tiny_spec(model), torch.device("cpu")),
        ReplayBuffer(connect(redis_url), BufferConfig(), uuid4().hex),
        LearnerConfig(
            steps=steps,
            learning_rate=LEARNING_RATE,
            decay_fraction=0.5,
            priority="reward",
            advanced=LearnerAdvanced(decay="cosine"),
        ),
        lambda version, files: None,
        task.prompts()[0],
        checkpoints=Checkpoints(checkpoints, keep=2),
    )
    while learner.step_number < steps:
        learner.step(batch(task, learner.step_number))
        learner.save()
    return adapter_files(learner._policy).weights


if __name__ == "__main__":
    model, checkpoints, redis_url, steps, result = sys.argv[1:]
    Path(result).write_bytes(learn(Path(model), Path(checkpoints), redis_url, int(steps)))
