"""Sends the learner's figures to other tools, through their own libraries: TensorBoard, Weights & Biases, trackio,
MLflow.

Off unless `train --sink NAME` selects one. None of them is a dependency: each is imported when it is selected. An
error of the library during the run is reported once; the sink is then disabled.
"""

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from buffer.errors import ConfigError

INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Name of a sink -> the package that brings it."""
Config = Mapping[str, Any]


class Sink(Protocol):
    """Takes figures; neither call raises."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Figures of one learner step."""

    def close(self) -> None:
        """No more figures follow."""


class GuardedSink:
    """A sink made of two calls of a library, disabled by its first error."""

    def __init__(self, name: str, log: Callable[[dict[str, float], int], object], end: Callable[[], object]) -> None:
        self._name = name
        self._log: Callable[[dict[str, float], int], object] | None = log
        self._end = end

    def row(self, row: Mapping[str, Any]) -> None:
        """Log the finite figures; these tools have no NaN. The step is their axis, not a figure."""
        if self._log is None:
            return
        log, figures = self._log, scalars(row)
        step = int(figures.pop("step"))
        self._guarded(lambda: log(figures, step))

    def close(self) -> None:
        """Flush and end the library's log."""
        if self._log is not None:
            self._guarded(self._end)
        self._log = None

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # an error in a library for watching runs does not end the run
            self._log = None
            warnings.warn(f"--sink {self._name} failed and is disabled: {error}", RuntimeWarning, stacklevel=2)


def open_sink(name: str, folder: Path, config: Config) -> Sink:
    """A sink for the run in `folder`. Raise ConfigError for an unknown name, and where its library cannot be used.

    `config` is the resolved recipe, which these tools show next to the curves.
    """
    if name not in _OPEN:
        raise ConfigError(f"unknown sink: --sink {name}; use one of {', '.join(_OPEN)}")
    try:
        return _OPEN[name](folder, config)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--sink {name} needs the package {INSTALL[name]}, which is not installed ({error}). "
            f"`pip install {INSTALL[name]}` into the run's environment, or leave the option out."
        ) from error
    except Exception as error:
        raise ConfigError(f"--sink {name} cannot start: {error}. Fix that, or leave the option out.") from error


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row by name; those of a nested table as table/name."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (int, float)) and math.isfinite(value):
            numbers[name] = float(value)
    return numbers


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


def _mlflow(folder: Path, config: Config) -> Sink:
    """At MLFLOW_TRACKING_URI, as MLflow reads it."""
    library = importlib.import_module("mlflow")
    library.set_experiment("tributary")
    library.start_run(run_name=folder.name)
    library.log_dict(dict(config), "recipe.json")  # a parameter of MLflow's has at most 6,000 characters
    return GuardedSink("mlflow", lambda figures, step: library.log_metrics(figures, step=step), library.end_run)


_OPEN: dict[str, Callable[[Path, Config], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
