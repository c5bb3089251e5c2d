"""What a verifier is: a function of many whole answers at once, with the columns of their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import Field

from buffer.errors import RewardError
from rewards.constraints.settings import TableSettings

Grade: TypeAlias = float | RewardError | None
"""The reward r of an answer; None: no opinion, which counts as 0; an error: the answer can't be graded."""


@dataclass(frozen=True, slots=True)
class Answers:
    """B answers of a call."""

    prompts: Sequence[object]
    """[B] texts, or lists of messages {"role", "content"} where the data are conversations."""
    completions: Sequence[object]
    """[B] texts, or lists of one message of the assistant, as in TRL."""
    texts: Sequence[str]
    """[B] the answers as plain text."""
    columns: Mapping[str, Sequence[object]]
    """Name -> [B] values of the answers' rows."""

    def one(self, i: int) -> "Answers":
        """The `i`th answer alone."""
        return Answers(
            [self.prompts[i]],
            [self.completions[i]],
            [self.texts[i]],
            {name: [values[i]] for name, values in self.columns.items()},
        )


Verifier: TypeAlias = Callable[[Answers], Sequence[Grade]]
"""B answers -> their B grades."""


class VerifierSettings(TableSettings):
    """Fields of every kind."""

    kind: str
    name: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,39})?$")
    """Name in figures and in rewards.weights; the default is the kind, or the function's name."""

    @property
    def title(self) -> str:
        """The name of the term."""
        return self.name or self.kind

    @property
    def columns(self) -> Sequence[str]:
        """Columns that every row must have."""
        return ()

    @property
    def highest_reward(self) -> float | None:
        """The largest r that it gives; None if that is not known."""
        return 1.0

    @property
    def longest_wait_s(self) -> float:
        """Time for which a call may wait for something outside, s."""
        return 0.0

    def build(self) -> Verifier:
        """Raise ValueError, with the bad value and the fix, for settings that can't work."""
        raise NotImplementedError


def each(grade: Callable[[str, Mapping[str, object]], Grade]) -> Verifier:
    """A verifier from a function of one text and its row."""

    def verify(answers: Answers) -> list[Grade]:
        return [
            grade(text, {name: values[i] for name, values in answers.columns.items()})
            for i, text in enumerate(answers.texts)
        ]

    return verify
