"""Estimates that are wrong to one side on average."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Bound:
    """An estimate whose mean is below ("at least") or above ("at most") the true value.

    It has no confidence interval: resampling the samples repeats their bias, and the interval would miss the truth.
    """

    value: float
    side: Literal["at least", "at most"]
    note: str = ""
    """Facts that tell how strong the bias can be, printed next to the value."""
