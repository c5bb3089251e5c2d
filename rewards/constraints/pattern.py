r"""A regular expression that a text must match.

pattern '\d{4}-\d\d-\d\d'     "2024-02-29"  yes     "on 2024-02-29"  no: the whole text, unless match = "search"

Python's `re` may take exponential time, as for '(a+)+b'. The reward worker interrupts it after rewards.time_limit_s and
quarantines the string with that reason.
"""

import re
from typing import Literal

from rewards.constraints.settings import Constraint, ConstraintSettings, from_predicate


class Pattern(ConstraintSettings):
    """{kind = "regex", pattern = '...'}"""

    kind: Literal["regex"]
    pattern: str
    """A pattern of Python's re; flags come first, such as (?i) or (?s)."""
    match: Literal["fullmatch", "search"] = "fullmatch"
    """fullmatch: the whole text; search: anywhere in the text."""

    def build(self) -> Constraint:
        """Raise ValueError for an invalid regular expression."""
        try:
            compiled = re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"pattern = {self.pattern!r:.80} is not a regular expression ({error}). Fix it; in TOML, single quotes "
                "keep backslashes"
            ) from error
        matcher = compiled.fullmatch if self.match == "fullmatch" else compiled.search
        return from_predicate(lambda text: matcher(text) is not None)
