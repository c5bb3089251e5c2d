"""Verifiers that compare an answer's text with a column of its row: 1 where it is right, else 0."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from buffer.errors import RewardError
from rewards.verifiers.verifier import Grade, Verifier, VerifierSettings, each

_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


class Exact(VerifierSettings):
    """{kind = "exact"}: the text is the one of the column `answer`, without surrounding white space."""

    kind: Literal["exact"]
    answer: str = "answer"
    """The column with the right answer."""
    ignore_case: bool = False

    @property
    def columns(self) -> Sequence[str]:
        """The answer's."""
        return (self.answer,)

    def build(self) -> Verifier:
        """Never fails."""

        def plain(value: object) -> str:
            text = str(value).strip()
            return text.casefold() if self.ignore_case else text

        return each(lambda text, row: float(plain(text) == plain(row[self.answer])))


class Numeric(VerifierSettings):
    """{kind = "numeric"}: the last number of the text is the last number of the column `answer`, such as "#### 42"."""

    kind: Literal["numeric"]
    answer: str = "answer"
    """The column with the right number, or with a text that ends with it."""
    tolerance: float = Field(default=1e-6, ge=0.0)
    """Largest difference, relative to the right number where that is above 1."""

    @property
    def columns(self) -> Sequence[str]:
        """The answer's."""
        return (self.answer,)

    def build(self) -> Verifier:
        """Never fails."""

        def grade(text: str, row: Mapping[str, object]) -> Grade:
            right = last_number(str(row[self.answer]))
            if right is None:
                return RewardError(f"column {self.answer!r} is {row[self.answer]!r:.80}, which holds no number")
            number = last_number(text)
            return float(number is not None and abs(number - right) <= self.tolerance * max(1.0, abs(right)))

        return each(grade)


class Length(VerifierSettings):
    """{kind = "length", most = 50}: the text has `least` to `most` words."""

    kind: Literal["length"]
    least: int = Field(default=0, ge=0)
    most: int = Field(ge=0)

    def build(self) -> Verifier:
        """ValueError if nothing can be right."""
        if self.least > self.most:
            raise ValueError(f"least = {self.least} is above most = {self.most}: no text has such a length. Swap them")
        return each(lambda text, row: float(self.least <= len(text.split()) <= self.most))


def last_number(text: str) -> float | None:
    """The last number of a text, such as 1,234.5 or -2e3; None if there is none or it is not finite."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    number = float(numbers[-1].replace(",", ""))
    return number if math.isfinite(number) else None
