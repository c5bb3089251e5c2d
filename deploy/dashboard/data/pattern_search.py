"""Search by regular expressions of a visitor, within a time limit.

A pattern such as (a+)+$ can take longer than anybody waits; it must stop neither the page nor other readers.
"""

import time
from collections.abc import Iterable
from functools import lru_cache

import regex

from buffer.errors import TributaryError

LIMIT_S = 2.0
"""For all texts of one search."""


class PatternTooSlow(TributaryError):
    """A search took longer than LIMIT_S."""


def matching(pattern: str, texts: Iterable[tuple[int, str]]) -> list[int]:
    """The numbers of the texts that contain the pattern, in their order. Raise PatternTooSlow."""
    deadline, found = time.monotonic() + LIMIT_S, compiled(pattern)
    try:
        return [number for number, text in texts if found.search(text, timeout=_left_s(deadline)) is not None]
    except TimeoutError:
        raise PatternTooSlow(
            f"the search for the regular expression {pattern!r} took over {LIMIT_S:g} s; make it simpler, or filter by "
            "prompt or step as well"
        ) from None


@lru_cache(maxsize=32)
def compiled(pattern: str) -> "regex.Pattern[str]":
    """The compiled pattern. Raise ValueError, with the reason, for one that is not a regular expression."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
