"""Mathematical equality, by the package math-verify: "1/2" equals "\\frac{2}{4}" and "0.5".

It runs in a process of its own, since simplification may never end. Install it with `pip install 'tributary[math]'`.
"""

import importlib.util
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rewards.verifiers.child import Child
from rewards.verifiers.verifier import Answers, Grade, Verifier, VerifierSettings


class Math(VerifierSettings):
    """{kind = "math"}: the answer's last expression equals the one in the column `answer`."""

    kind: Literal["math"]
    answer: str = "answer"
    """The column with the right expression, in LaTeX or plain."""
    limit_s: float = Field(default=10.0, gt=0.0)
    """Time limit of one call, s."""

    @property
    def columns(self) -> Sequence[str]:
        """The answer's."""
        return (self.answer,)

    def build(self) -> Verifier:
        """ValueError without math-verify."""
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError("kind = 'math' needs the package math-verify: pip install 'tributary[math]'")
        child = Child("rewards.verifiers.math_child:equal", self.limit_s)

        def verify(answers: Answers) -> Sequence[Grade]:
            columns = {"answer": [str(value) for value in answers.columns[self.answer]]}
            return child(Answers(answers.texts, answers.texts, answers.texts, columns))

        return verify
