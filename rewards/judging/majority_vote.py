"""Majority vote over sampled answers (self-consistency: Wang et al., arXiv 2203.11171)."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def majority_vote(values: Sequence[T | None]) -> T | None:
    """The most frequent answer; the first seen among equals. None is no answer and has no vote: all None gives None."""
    votes = Counter(value for value in values if value is not None)
    return max(votes, key=votes.__getitem__, default=None)  # first of equals: a Counter keeps order
