"""What a task is: prompts, an unnormalised target over strings, and how the result is judged.

Shapes   T response tokens, K reward terms.  Logs are natural, in nats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from buffer.errors import RewardError
from buffer.types import FloatArray, IntArray, Prompt

Terms = Mapping[str, NDArray[np.floating]]
"""Name -> [T+1] nats, of stopping after each prefix; log R is their sum. Untempered; finite."""


@dataclass(frozen=True, slots=True)
class BaseLogProbs:
    """What the frozen base model says of one response Z, nats."""

    tokens: FloatArray
    """[T] log p_LM(z_i | X, z_1:i-1)"""
    stop: FloatArray
    """[T+1] log p_LM(stop | X, z_1:i)"""

    @property
    def stopped(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i stop | X): of the string that ends there."""
        return np.concatenate([[0.0], np.cumsum(self.tokens)]).astype(np.float32) + self.stop


class Task(Protocol):
    """One file of rewards/tasks, or a class of your own.

    Built in every process, from the tokenizer and the recipe's options.

    Three more members are optional. `histogram(responses)` [K] counts outcomes 0..K-1 among responses and gives
    histogram.png; `explanations` says in words what the figures of `evaluate` mean; `support()` lists the strings that
    carry the target's mass, prompt id -> [(token ids, log R)], so that the learner can read its exact distance to it.
    """

    needs_base_model: bool
    """False saves a copy of the model: `log_reward` is then given None."""

    def prompts(self) -> Sequence[Prompt]:
        """The conditions X, in the order that actors walk through them."""

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base: BaseLogProbs | None) -> Terms:
        """log R(z_1:i stop) for every prefix i = 0..T of `token_ids` [T], term by term."""

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """Figures about one whole string, for people to read; shown as means over fresh on-policy samples."""

    def evaluate(self, responses: Mapping[str, Sequence[IntArray]]) -> dict[str, float]:
        """Judge responses sampled on-policy: prompt id -> its responses."""

    def log_mass(self) -> tuple[float, float]:
        """(known mass of the target, upper bound of what the floor for all other strings adds), logs, nats.

        `validate` refuses a recipe whose floor exceeds 1 % of the known mass. (nan, nan) where it is not known.
        """


def check_terms(terms: Terms, n_tokens: int, task: str) -> FloatArray:
    """Stack terms to [K, T+1] float32. RewardError where the contract is broken: names, shapes or finite values."""
    if not terms:
        raise RewardError(f"task {task!r} returned no reward term. log_reward must return at least one named array.")
    for name, values in terms.items():
        values = np.asarray(values)
        if values.shape != (n_tokens + 1,):
            raise RewardError(
                f"reward term {name!r} of task {task!r} has shape {values.shape} for a response of {n_tokens} tokens. "
                f"It must be ({n_tokens + 1},): one value for every prefix, the empty one included."
            )
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values))[0])
            raise RewardError(
                f"reward term {name!r} of task {task!r} is {values[where]} at prefix {where} of a response of "
                f"{n_tokens} tokens. log R must be finite everywhere: give impossible strings a floor (relative to the "
                "base model's log-probability, such as log 0.01 + log p_LM) instead of -inf, and look for a division "
                "or log of 0."
            )
    return np.stack([np.asarray(values, dtype=np.float32) for values in terms.values()])
