"""The options of `tributary train` that do not belong to the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of watching a run."""

    dashboard: bool = True
    port: int | None = None
    """Port of the dashboard; None: 8710, or any free port where that is taken."""
    sinks: Sequence[str] = ()
    """Names of the sinks that get the figures too, as in deploy/telemetry/sinks.py."""


DEFAULT_OPTIONS = TrainOptions(dashboard=False)
