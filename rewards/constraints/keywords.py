"""Words that a text must hold, or must not.

words ["rain", "sun"], match "any"     "Rain fell."  yes     "It rained."  no: whole words
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from rewards.constraints.settings import Constraint, ConstraintSettings, each


class Keywords(ConstraintSettings):
    """{kind = "keywords", words = [...]}"""

    kind: Literal["keywords"]
    words: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    match: Literal["all", "any", "none"] = "all"
    """How many of them a text must hold."""
    ignore_case: bool = True
    whole_words: bool = True
    """False finds them inside of longer words too."""

    def build(self) -> Constraint:
        """Each word is looked for as it stands: it is no pattern."""
        edges = (r"(?<!\w)", r"(?!\w)") if self.whole_words else ("", "")
        flags = re.IGNORECASE if self.ignore_case else re.NOFLAG
        found = [re.compile(edges[0] + re.escape(word) + edges[1], flags).search for word in self.words]
        if self.match == "all":
            return each(lambda text: all(find(text) for find in found))
        wanted = self.match == "any"
        return each(lambda text: any(find(text) for find in found) == wanted)
