"""Words that a text must contain, or must not.

words ["rain", "sun"], match "any"     "Rain fell."  yes     "It rained."  no: whole words
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from rewards.constraints.settings import Constraint, ConstraintSettings, from_predicate


class Keywords(ConstraintSettings):
    """{kind = "keywords", words = [...]}"""

    kind: Literal["keywords"]
    words: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    match: Literal["all", "any", "none"] = "all"
    """The words that a text must contain: all, at least one, or none of them."""
    ignore_case: bool = True
    whole_words: bool = True
    """False: a word inside a longer word counts, too."""

    def build(self) -> Constraint:
        """Words are matched literally, not as patterns."""
        edges = (r"(?<!\w)", r"(?!\w)") if self.whole_words else ("", "")
        flags = re.IGNORECASE if self.ignore_case else re.NOFLAG
        searches = [re.compile(edges[0] + re.escape(word) + edges[1], flags).search for word in self.words]
        if self.match == "all":
            return from_predicate(lambda text: all(search(text) for search in searches))
        wanted = self.match == "any"
        return from_predicate(lambda text: any(search(text) for search in searches) == wanted)
