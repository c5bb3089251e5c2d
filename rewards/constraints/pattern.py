r"""A regular expression that a text must match.

pattern '\d{4}-\d\d-\d\d'     "2024-02-29"  yes     "on 2024-02-29"  no: the whole text, unless match = "search"

Python's `re` may take exponential time, as for '(a+)+b'. It heeds the signal by which the reward worker ends what takes
longer than rewards.time_limit_s; the string is then set aside with that reason.
"""

import re
from typing import Literal

from rewards.constraints.settings import Constraint, ConstraintSettings, each


class Pattern(ConstraintSettings):
    """{kind = "regex", pattern = '...'}"""

    kind: Literal["regex"]
    pattern: str
    """In the language of Python's re; flags stand in front, such as (?i) or (?s)."""
    match: Literal["fullmatch", "search"] = "fullmatch"
    """search: anywhere in the text."""

    def build(self) -> Constraint:
        """ValueError for what is no regular expression."""
        try:
            compiled = re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"pattern = {self.pattern!r:.80} is no regular expression ({error}). Mend it; in TOML, single quotes "
                "keep backslashes as they are"
            ) from error
        look = compiled.fullmatch if self.match == "fullmatch" else compiled.search
        return each(lambda text: look(text) is not None)
