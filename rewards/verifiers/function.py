"""A reward function of the user, in the signature of TRL: f(prompts, completions, **columns) -> list[float | None].

It is called with whole answers, many at once, each answer once, in a process of its own.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from rewards.verifiers.child import Child
from rewards.verifiers.verifier import Verifier, VerifierSettings


class Function(VerifierSettings):
    """{kind = "function", function = "rewards.py:accuracy"}"""

    kind: Literal["function"]
    function: str
    """PATH.py:name, or module:name of a module that Python can import from the folder where the run is started or
    from the recipe's."""
    limit_s: float = Field(default=60.0, gt=0.0)
    """Time limit of one call, s. A call that takes longer is ended and repeated answer by answer."""
    highest: float | None = None
    """The largest number that it returns. With it `evaluate` can draw from the target exactly."""

    @property
    def highest_reward(self) -> float | None:
        """As the recipe says."""
        return self.highest

    @property
    def title(self) -> str:
        """The function's own name, by default."""
        return self.name or self.function.rpartition(":")[2]

    def build(self) -> Verifier:
        """ValueError for a file that does not exist; a function that can't be imported shows at its first call."""
        where, _, name = self.function.rpartition(":")
        if not where or not name.isidentifier():
            raise ValueError(f"function = {self.function!r} must be PATH.py:name or module:name")
        if where.endswith(".py") and not Path(where).expanduser().is_file():
            raise ValueError(f"function = {self.function!r}: there is no file {where}. Give its path from this folder")
        return Child(self.function, self.limit_s)
