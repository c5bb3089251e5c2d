"""A learner's state on disk: everything it needs to continue as if it had never stopped.

A checkpoint is one safetensors file: adapter, moments of AdamW, state of torch's generator; a few numbers are JSON in
the file's header. A file is written under another name, flushed, then renamed, so whenever a process dies the folder
holds complete checkpoints only. Batches need no state: the n-th draw of a run has a generator of its own
(learner/batch_source.py), so the step number is the position.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from buffer.errors import ConfigError

_NAME, _NUMBERS = "step-*.safetensors", "numbers"


class Numbers(BaseModel):
    """The part of a state that is not tensors, as JSON in the file's header."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")

    schema_version: int = Field(default=1, ge=1, le=1)
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

    def save(self, state: State) -> None:
        """Write a checkpoint and remove all but the newest `keep`. Return once it is on disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{state.numbers.step:08d}.safetensors"
        partial = path.with_suffix(".partial")
        content = save(state.tensors, metadata={_NUMBERS: state.numbers.model_dump_json()})
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(self._folder)
        for old in [*sorted(self._folder.glob(_NAME))[: -self._keep], *self._folder.glob("*.partial")]:
            old.unlink()

    def newest(self) -> State | None:
        """The newest checkpoint; None if there is none. ConfigError if it is unreadable."""
        paths = sorted(self._folder.glob(_NAME))
        if not paths:
            return None
        try:
            with safe_open(paths[-1], framework="pt") as file:
                numbers = Numbers.model_validate_json((file.metadata() or {}).get(_NUMBERS, ""))
                return State(numbers, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        except (SafetensorError, ValidationError, OSError) as error:
            raise ConfigError(
                f"the checkpoint {paths[-1]} is damaged: {error}. Remove it to continue from the previous checkpoint, "
                "or start the run over with --replace."
            ) from error


def _sync(folder: Path) -> None:
    """Flush a folder: a rename is on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
