"""Majority vote over sampled answers (self-consistency: Wang et al., arXiv 2203.11171)."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def majority(values: Sequence[T | None]) -> T | None:
    """The most frequent answer, the first seen of equals. None, no answer, has no vote: it wins only where all are."""
    votes = Counter(value for value in values if value is not None)
    return max(votes, key=votes.__getitem__, default=None)  # of equals the first, and a Counter keeps the order seen
