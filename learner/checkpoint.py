"""A learner's state on disk: what it needs to go on as if nothing had happened.

One safetensors file a checkpoint: adapter, moments of AdamW, state of torch's generator; the few numbers beside them
are JSON in the file's header. A file is written beside its place, flushed, then renamed, so whenever a process dies the
folder holds whole checkpoints only. Batches need no state: the n-th draw of a run has a generator of its own
(learner/batch_source.py), so the step number is the position.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from buffer.errors import ConfigError

_NAME, _NUMBERS = "step-*.safetensors", "numbers"


class Numbers(BaseModel):
    """What is no tensor."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")

    schema_version: int = Field(default=1, ge=1, le=1)
    step: int = Field(ge=0)
    version: int = Field(ge=-1)
    """Of the adapter published last."""
    skipped_steps: int = Field(ge=0)
    largest_log_reward: float | None
    """Of learner/priority.py, nats."""
    adapter_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the adapter as it would be published."""
    rows: list[dict[str, Any]] = Field(default_factory=list)
    """Figures of the steps since the checkpoint before, NaN among them: what the driver may not have taken in yet."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything, in the CPU's memory."""

    numbers: Numbers
    tensors: dict[str, Tensor]


class Checkpoints:
    """The newest `keep` checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, state: State) -> None:
        """Write one and remove what is older than the newest `keep`. Returns when it is on disk."""
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
        """The newest; None where there is none. ConfigError when it can't be read."""
        paths = sorted(self._folder.glob(_NAME))
        if not paths:
            return None
        try:
            with safe_open(paths[-1], framework="pt") as file:
                numbers = Numbers.model_validate_json((file.metadata() or {}).get(_NUMBERS, ""))
                return State(numbers, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        except (SafetensorError, ValidationError, OSError) as error:
            raise ConfigError(
                f"{paths[-1]} is damaged ({error}). Remove it to go on from the checkpoint before it, or train anew "
                "with --replace."
            ) from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of AdamW, named by the parameter's place."""
    return {
        f"optimiser.{place}.{name}": value.detach().cpu()
        for place, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimiser":
            place, name = rest.split(".")
            state.setdefault(int(place), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _sync(folder: Path) -> None:
    """A rename is on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
