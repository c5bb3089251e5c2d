"""What `train` is asked to do for people who watch it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of `tributary train` that are none of the recipe's."""

    dashboard: bool = True
    port: int | None = None
    """None: the usual one, or any free one where that is taken."""
    sinks: Sequence[str] = ()
