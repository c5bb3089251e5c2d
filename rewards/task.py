"""What a task is: prompts, an unnormalised target over strings, and how the result is judged.

Shapes   T response tokens, Y tokens of a target, K reward terms.  Logs are natural, in nats.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from buffer.errors import RewardError
from buffer.tool import Tool
from buffer.types import FloatArray, IntArray, PolicySpec, Prompt
from rewards.judging.bootstrap import Interval

Terms = Mapping[str, NDArray[np.floating]]
"""Name -> [T+1] nats, of stopping after each prefix; log R is their sum, weighted as the recipe says. Untempered and
finite. A name that begins with "_" is a note: kept beside, never part of log R."""

MOST_NAMES = 64
"""Of reward terms, and of labels."""
LONGEST_NAME = 64
TRAIN = "train"
NO_TARGET = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """What the frozen base model is asked about every response Z to a prompt."""

    context: IntArray
    """[C] tokens in front of Z; at least one. Often the prompt's own; a few-shot prefix that the policy never sees may
    stand in front."""
    target: IntArray = field(default_factory=lambda: NO_TARGET)
    """[Y] tokens to be scored behind every prefix of Z; none to score Z alone."""
    masked: bool = False
    """Renormalise over the recipe's allowed tokens and the stop while Z is scored; a target is never masked. A token
    that is not allowed, such as one that a tool wrote, is normalised over these and itself."""


@dataclass(frozen=True, slots=True)
class BaseLogProbs:
    """What the frozen base model says of one response Z to one question, nats."""

    tokens: FloatArray
    """[T] log p_LM(z_i | X, z_1:i-1)"""
    stop: FloatArray
    """[T+1] log p_LM(stop | X, z_1:i)"""
    target: FloatArray
    """[T+1] log p_LM(Y | X, z_1:i), Y straight behind the prefix; 0 where the question has no target."""

    @property
    def log_p_prefix(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i | X)"""
        return np.concatenate([[0.0], np.cumsum(self.tokens, dtype=np.float64)]).astype(np.float32)

    @property
    def log_p_stop(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i stop | X): of the string that ends there."""
        return self.log_p_prefix + self.stop

    @property
    def explained(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i Y | X): of the prefix with the target behind it."""
        return self.log_p_prefix + self.target


@dataclass(frozen=True, slots=True)
class Sample:
    """One response drawn on-policy, for judging."""

    token_ids: IntArray
    """[T] without the stop token."""
    log_q: float
    """log q(Z stop), nats."""
    log_reward: float
    """log R(Z stop), nats, weighted, untempered."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Each term of the whole string, notes too, nats, unweighted."""


@dataclass(frozen=True, slots=True)
class Judges:
    """Models that judge, where they are present; see rewards/judging."""

    embed: Callable[[Sequence[str]], FloatArray] | None = None
    """N texts -> [N, D], of length 1 each."""
    bert_score: Callable[[Sequence[str], Sequence[str]], FloatArray] | None = None
    """N hypotheses and N references -> [N] F1."""


Figure = float | Interval
"""What `evaluate` finds: a number, with a bootstrap interval where one makes sense. NaN where it is not known."""


class Task:
    """One file of rewards/tasks, or a class of your own: write `prompts` and `log_reward`; the rest has defaults.

    Built in every process, from the tokenizer and the recipe's options as keyword arguments.
    """

    needs_base_model: bool = True
    """False saves a copy of the model: there is nobody to answer questions then."""
    splits: Sequence[str] = (TRAIN,)
    """Names that `prompts` knows; `tributary evaluate --split` chooses."""
    tool: Tool | None = None
    """What writes into a response at its triggers; see buffer/tool.py."""
    explanations: ClassVar[Mapping[str, str]] = {}
    """What the figures of `evaluate` mean, in words."""

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The conditions X, in the order that actors walk through them. Splits share none."""
        raise NotImplementedError

    def check_policy(self, spec: PolicySpec) -> None:
        """Raise ValueError, saying what would fit, where the reward counts on another policy: its stop, its limits."""

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """What the base model is asked about each response; by default, Z behind the prompt."""
        return [ScoreRequest(prompt.token_ids)] if self.needs_base_model else []

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """log R(z_1:i stop) for every prefix i = 0..T of `token_ids` [T], term by term.

        `base_scores` holds the answers to `score_requests`, in their order.
        """
        raise NotImplementedError

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """(prompt id, response) of good strings that the task knows, text of its tool included: scored like any other
        and put into the buffer before training begins."""
        return []

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """Figures about one whole string, for people to read; shown as means over fresh on-policy samples."""
        return {}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Judge samples drawn on-policy: prompt id -> its samples, of one split. A figure that needs a model which is
        not there is left out."""
        return {}

    def log_mass(self) -> tuple[float, float]:
        """(known mass of the target, upper bound of what the floor for all other strings adds), logs, nats.

        `validate` refuses a recipe whose floor exceeds 1 % of the known mass. (nan, nan) where it is not known.
        """
        return float("nan"), float("nan")

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """The strings that carry the target's mass, where they can be listed: prompt id -> [(token ids, log R)].

        The learner then reads its exact distance to the target. Strings that a tool wrote into can't be listed.
        """
        return {}

    def histogram(self, samples: Sequence[Sample]) -> NDArray[np.int_] | None:
        """[K] how often each of the outcomes 0..K-1 was drawn, where there are such outcomes: histogram.png."""
        return None


def check_terms(terms: Terms, n_tokens: int, task: str) -> FloatArray:
    """Stack terms to [K, T+1] float32. RewardError where the contract is broken: names, shapes or finite values."""
    if not isinstance(terms, Mapping) or not terms:
        raise RewardError(f"task {task!r} returned no reward term. log_reward must return at least one named array.")
    check_names(terms, f"reward terms of task {task!r}")
    for name, values in terms.items():
        values = np.asarray(values)
        if values.shape != (n_tokens + 1,):
            raise RewardError(
                f"reward term {name!r} of task {task!r} has shape {values.shape} for a response of {n_tokens} tokens. "
                f"It must be ({n_tokens + 1},): one value for every prefix, the empty one included."
            )
        if values.dtype.kind not in "fiub" or not np.isfinite(values.astype(np.float32)).all():
            where = next(i for i, v in enumerate(values.tolist()) if not _is_finite(v))
            raise RewardError(
                f"reward term {name!r} of task {task!r} is {values[where]} at prefix {where} of a response of "
                f"{n_tokens} tokens. log R must be finite everywhere: give impossible strings a floor (relative to the "
                "base model's log-probability, such as log 0.01 + log p_LM) instead of -inf, and look for a division "
                "or log of 0."
            )
    return np.stack([np.asarray(values, dtype=np.float32) for values in terms.values()])


def check_names(names: Collection[object], whose: str) -> None:
    """RewardError unless they can be kept beside a string: a few short, printable words."""
    if len(names) > MOST_NAMES:
        raise RewardError(f"{whose}: {len(names)} names, at most {MOST_NAMES} are kept. Join some of them.")
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise RewardError(
                f"{whose}: a name must be a text of 1 to {LONGEST_NAME} printable characters, not {name!r:.80}."
            )


def _is_finite(value: object) -> bool:
    """As a float32 number."""
    with np.errstate(over="ignore"):
        return isinstance(value, (int, float)) and bool(np.isfinite(np.float32(value)))
