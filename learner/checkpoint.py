"""A learner's state on disk: everything it needs to continue as if it had never stopped.

A checkpoint is one safetensors file: adapter, moments of AdamW, state of torch's generator; a few numbers are JSON in
the file's header. A file is written under another name, flushed, then renamed, so whenever a process dies the folder
holds complete checkpoints only. Batches need no state: the n-th draw of a run has a generator of its own
(learner/batch_source.py), so the step number is the position.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from buffer.errors import ConfigError, TributaryError
from buffer.full_disk import when_there_is_room, write_bytes

SCHEMA_VERSION = 1
_NAME, _NUMBERS, _DIGEST = "step-*.safetensors", "numbers", "sha256"


class Numbers(BaseModel):
    """The part of a state that is not tensors, as JSON in the file's header."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    step: int = Field(ge=0)
    version: int = Field(ge=-1)
    """Number of the newest published adapter."""
    skipped_steps: int = Field(ge=0)
    largest_log_rewards: dict[str, float] = Field(default_factory=dict)
    """`Priorities.largest_log_rewards`, nats."""
    adapter_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of the adapter's weights as they would be published."""
    rows: list[dict[str, Any]] = Field(default_factory=list)
    """Figures of the steps since the previous checkpoint, NaN among them: the driver may not have written them yet."""


@dataclass(frozen=True, slots=True)
class State:
    """A complete checkpoint in the CPU's memory."""

    numbers: Numbers
    tensors: dict[str, Tensor]


class Checkpoints:
    """The newest `keep` checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self.damaged: list[str] = []
        """Path and damage of each file that the last `newest` passed over."""

    def save(self, state: State) -> None:
        """Write a checkpoint and remove all but the newest `keep`. Return once it is on disk.

        Files of later steps, which `newest` has passed over, are renamed. TributaryError for a state that is not
        finite: it would replace the last good one.
        """
        if name := _not_finite(state.tensors):
            raise TributaryError(
                f"after step {state.numbers.step} the learner's {name} is not finite, so the state was not saved. "
                "Resume from the previous checkpoint: tributary train --resume RUN, with a lower "
                "learner.learning_rate, or a model.dtype of higher precision."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{state.numbers.step:08d}.safetensors"
        partial = path.with_suffix(".partial")
        numbers = state.numbers.model_dump_json()
        content = save(state.tensors, metadata={_NUMBERS: numbers, _DIGEST: _digest(numbers, state.tensors)})
        when_there_is_room(lambda: write_bytes(partial, content), self._folder)
        partial.replace(path)
        _sync(self._folder)
        paths = sorted(self._folder.glob(_NAME))
        for later in paths[paths.index(path) + 1 :]:
            later.replace(later.with_suffix(".damaged"))
        for old in [*paths[: paths.index(path) + 1][: -self._keep], *self._folder.glob("*.partial")]:
            old.unlink()

    def newest(self) -> State | None:
        """The newest checkpoint that is intact; None if there is none at all.

        ConfigError if all are damaged, or if a newer release wrote the newest one, which is left alone.
        """
        paths = sorted(self._folder.glob(_NAME), reverse=True)
        self.damaged = []
        for path in paths:
            try:
                return _read(path)
            except (SafetensorError, ValueError, OSError) as error:
                self.damaged.append(f"{path}: {error}")
        if paths:
            raise ConfigError(
                f"no checkpoint in {self._folder} is intact: {'; '.join(self.damaged)}. Start the run over with "
                "--replace, or restore the folder from a copy."
            )
        return None


def _read(path: Path) -> State:
    """A checkpoint. ValueError, SafetensorError or OSError if it is damaged; ConfigError for a newer release's."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        stored = metadata.get(_NUMBERS, "")
        fields = json.loads(stored or "{}")
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise ConfigError(
                f"the checkpoint {path} is of version {version} and this release reads up to {SCHEMA_VERSION}: a newer "
                "release of Tributary wrote it. Use that release; the file is intact."
            )
        numbers = Numbers.model_validate_json(stored)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if _DIGEST in metadata and metadata[_DIGEST] != _digest(stored, tensors):
        raise ValueError("its sha256 is not the recorded one")
    if name := _not_finite(tensors):
        raise ValueError(f"its {name} is not finite")
    return State(numbers, tensors)


def _digest(numbers: str, tensors: dict[str, Tensor]) -> str:
    """sha256 (hex) of the numbers as JSON and of all tensors."""
    digest = hashlib.sha256(numbers.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)


def _sync(folder: Path) -> None:
    """Flush a folder: a rename is on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
