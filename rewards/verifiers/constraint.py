"""Constraints as verifiers: r = c(Z), 1 where a text satisfies the constraint and 0 where it does not."""

import numpy as np

from buffer.errors import RewardError
from rewards.constraints.settings import Constraint
from rewards.time_limit import CallFailed, call_with_limit
from rewards.verifiers.verifier import Answers, Grade, Verifier

KINDS = ("classifier", "json_schema", "keywords", "regex")
"""The constraints that are verifiers too."""
LIMIT_S = 10.0
"""Time limit for one text: a regular expression may take exponential time."""


def constraint_verifier(constraint: Constraint) -> Verifier:
    """A verifier whose reward is c, from 0 to 1."""

    def grade(text: str) -> Grade:
        try:
            return float(np.exp(call_with_limit(lambda: constraint([text]), LIMIT_S, "the constraint", "its limit"))[0])
        except CallFailed as error:
            return RewardError(str(error))

    def verify(answers: Answers) -> list[Grade]:
        return [grade(text) for text in answers.texts]

    return verify
