"""The learner's figures to other tools, through their own libraries: TensorBoard, Weights & Biases, trackio.

Off unless `train --sink NAME` asks for one. None of them is a dependency: each is imported when asked for. What a
library raises while the run goes on is told once, and its sink is silent from then on.
"""

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from buffer.errors import ConfigError

INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name of a sink -> the package that brings it."""
Config = Mapping[str, Any]


class Sink(Protocol):
    """Takes figures; neither call raises."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Figures of one learner step."""

    def close(self) -> None:
        """No more will come."""


class GuardedSink:
    """A sink made of two calls of some library."""

    def __init__(self, name: str, log: Callable[[dict[str, float], int], object], end: Callable[[], object]) -> None:
        self._name = name
        self._log: Callable[[dict[str, float], int], object] | None = log
        self._end = end

    def row(self, row: Mapping[str, Any]) -> None:
        """Finite figures only: these tools have no word for NaN. The step is their axis, and none of the figures."""
        if self._log is None:
            return
        log, figures = self._log, scalars(row)
        step = int(figures.pop("step"))
        self._guarded(lambda: log(figures, step))

    def close(self) -> None:
        """Let the library write what it holds."""
        if self._log is not None:
            self._guarded(self._end)
        self._log = None

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # of a library for looking at runs: no reason to end one
            self._log = None
            warnings.warn(f"--sink {self._name} failed and gets no more: {error}", RuntimeWarning, stacklevel=2)


def open_sink(name: str, folder: Path, config: Config) -> Sink:
    """A sink for the run in `folder`. Raise ConfigError for an unknown name, and where its library can't be used.

    `config` is the resolved recipe, which these tools show beside the curves.
    """
    if name not in _OPEN:
        raise ConfigError(f"--sink {name} is none of {', '.join(_OPEN)}; give one of these")
    try:
        return _OPEN[name](folder, config)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--sink {name} needs the package {INSTALL[name]}, which is not installed ({error}). "
            f"`pip install {INSTALL[name]}` into the run's environment, or leave the option out."
        ) from error
    except Exception as error:
        raise ConfigError(f"--sink {name} can't start: {error}. Mend that, or leave the option out.") from error


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row by name, those of a table with its name before them."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (int, float)) and math.isfinite(value):
            found[name] = float(value)
    return found


def _tensorboard(folder: Path, config: Config) -> Sink:
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return GuardedSink("tensorboard", log, writer.close)


def _wandb(folder: Path, config: Config) -> Sink:
    library = importlib.import_module("wandb")
    run = library.init(project="tributary", name=folder.name, dir=str(folder), config=dict(config))
    return GuardedSink("wandb", lambda figures, step: run.log(figures, step=step), run.finish)


def _trackio(folder: Path, config: Config) -> Sink:
    library = importlib.import_module("trackio")
    library.init(project="tributary", name=folder.name, config=dict(config))
    return GuardedSink("trackio", lambda figures, step: library.log(figures, step=step), library.finish)


_OPEN: dict[str, Callable[[Path, Config], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
