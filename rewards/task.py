"""The task contract: prompts, an unnormalised target over strings, and how samples are judged.

X is a prompt, Z = z_1..z_T a response, ⊤ the stop token that ends it. R(Z ⊤) > 0 is the reward of the finished string:
a density that need not sum to 1. The trained policy samples Z with probability R(Z ⊤) / Σ R. All logs are natural, so
their unit is the nat: one nat more makes a string e = 2.718 times as likely.

Shapes   T response tokens, Y target tokens, K reward terms.
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
from rewards.judging.bound import Bound

Terms = Mapping[str, NDArray[np.floating]]
"""Name -> [T+1] values of one additive term of log R, nats. Entry i belongs to the prefix z_1:i as a finished string.
[1], that of the whole string, from a task that is `whole_strings_only`.

log R is the sum of the terms, weighted by rewards.weights; the learner applies the reward temperature later. Values are
finite. A term whose name begins with "_" is a note: stored and shown, never part of log R."""

MAX_NAMES = 64
"""Limit on the number of reward terms, and on the number of labels."""
MAX_NAME_LENGTH = 64
TRAIN = "train"
NO_TARGET = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One evaluation of the frozen base model, made for every response Z to a prompt."""

    context: IntArray
    """[C] tokens in front of Z, C >= 1: the prompt's tokens, perhaps after a few-shot prefix that the policy never
    sees."""
    target: IntArray = field(default_factory=lambda: NO_TARGET)
    """[Y] tokens to score after every prefix of Z; empty to score Z alone."""
    masked: bool = False
    """Renormalise the log-probabilities of Z over the policy's allowed tokens and ⊤. The target is never masked. A
    token that is not allowed, such as one that a tool wrote, is normalised over these and itself."""
    at_stops: bool = False
    """True: the target is scored only behind prefixes at which the policy may stop, and of whole strings only behind
    these. Other prefixes, whose reward nothing reads, get the value of the next one that is scored: much less work."""
    behind: IntArray | None = None
    """[P] lengths of the prefixes behind which the target is scored, the last one T; None: all. Set by the scorer."""

    def prefixes(self, n_tokens: int) -> IntArray:
        """[P] lengths of the prefixes of a response of T tokens behind which the target is scored, ascending."""
        return np.arange(n_tokens + 1, dtype=np.int32) if self.behind is None else self.behind


@dataclass(frozen=True, slots=True)
class BaseLogProbs:
    """The frozen base model's answer to one `ScoreRequest` for one response Z, nats; X stands for its context."""

    tokens: FloatArray
    """[T] log p_LM(z_i | X, z_1:i-1), of each token given those before it."""
    stop: FloatArray
    """[T+1] log p_LM(⊤ | X, z_1:i), of the stop token alone, given the prefix."""
    target: FloatArray
    """[T+1] log p_LM(Y | X, z_1:i), of the target directly after the prefix; 0 where the request has no target. See
    `ScoreRequest.at_stops` for prefixes at which the policy can't stop."""

    @property
    def log_p_prefix(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i | X), of the whole prefix without a stop."""
        return np.concatenate([[0.0], np.cumsum(self.tokens, dtype=np.float64)]).astype(np.float32)

    @property
    def log_p_stop(self) -> FloatArray:
        """[T+1] log p_LM(z_1:i ⊤ | X), of the whole prefix as a finished string: log_p_prefix + stop."""
        return self.log_p_prefix + self.stop


@dataclass(frozen=True, slots=True)
class Sample:
    """One response drawn on-policy, for evaluation."""

    token_ids: IntArray
    """[T] without ⊤."""
    log_q: float
    """log q(Z ⊤), the policy's log-probability, nats."""
    log_reward: float
    """log R(Z ⊤), nats: weighted, at reward temperature 1."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Each term of the whole string, notes included, nats, unweighted."""


@dataclass(frozen=True, slots=True)
class Judges:
    """Optional models for evaluation (rewards/judging); None where a model is not installed."""

    embed: Callable[[Sequence[str]], FloatArray] | None = None
    """N texts -> [N, D] sentence embeddings of length 1."""
    bert_score: Callable[[Sequence[str], Sequence[str]], FloatArray] | None = None
    """N hypotheses and N references -> [N] BERTScore F1."""


Figure = float | Interval | Bound
"""A metric of `evaluate`: a number, one with its confidence interval, or one that is too small or too large on average.
NaN means not known."""


class Task:
    """Base class of all tasks. Implement `prompts` and `log_reward`; everything else has a default.

    Every process of a run builds its own instance, from the tokenizer and the recipe's task.options as keyword
    arguments.
    """

    needs_base_model: bool = True
    """False: no base model is loaded for this task, and `score_requests` must be empty."""
    whole_strings_only: bool = False
    """True: only whole strings have a reward, not their prefixes. Objectives that compare prefixes are refused."""
    splits: Sequence[str] = (TRAIN,)
    """Names accepted by `prompts`; `tributary evaluate --split` selects one."""
    tool: Tool | None = None
    """A tool that writes into a response after its trigger tokens; see buffer/tool.py."""
    largest_terms: Mapping[str, float] = {}
    """The largest value of terms that may raise R above the probability in `prior`, nats, before weights."""
    longest_wait_s: float = 0.0
    """Time for which `batch_terms` may wait for something outside, such as an endpoint that is down, s."""
    mass_temperature: float = 1.0
    """Reward temperature T at which `log_mass` counts the mass of R^(1/T)."""
    explanations: ClassVar[Mapping[str, str]] = {}
    """Figure name -> one sentence on its meaning, shown below the figure in tables."""

    def prompts(self, split: str = TRAIN) -> Sequence[Prompt]:
        """The prompts X of a split, in a fixed order. No prompt is in two splits."""
        raise NotImplementedError

    def check_policy(self, spec: PolicySpec) -> None:
        """Raise ValueError, naming what would fit, if the reward assumes another stop token or other length limits."""

    def score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        """The evaluations of the base model that `log_reward` needs; by default one, of Z after the prompt."""
        return [ScoreRequest(prompt.token_ids)] if self.needs_base_model else []

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        """log R(z_1:i ⊤) of every prefix i = 0..T of `token_ids` [T] as a finished string, term by term.

        `base_scores` holds the results of `score_requests`, in the same order.
        """
        raise NotImplementedError

    def batch_terms(self, prompts: Sequence[Prompt], responses: Sequence[IntArray]) -> Sequence[Terms | RewardError]:
        """[B] more terms of log R, for functions that take many whole strings at once, once each. An error says why its
        string has no reward.

        rewards.time_limit_s does not hold here: the task bounds its own calls.
        """
        return [{}] * len(responses)

    def demonstrations(self) -> Sequence[tuple[str, str]]:
        """(prompt id, response) of known good strings, including the text that the tool writes. They are scored like
        samples and added to the buffer before training begins."""
        return []

    def labels(self, prompt: Prompt, token_ids: IntArray) -> Mapping[str, float]:
        """Numbers that describe one whole string to people. The run shows their means over fresh on-policy samples."""
        return {}

    def evaluate(self, samples: Mapping[str, Sequence[Sample]], judges: Judges) -> Mapping[str, Figure]:
        """Figures of samples drawn on-policy (prompt id -> its samples, of one split). Figures whose judge is None are
        omitted."""
        return {}

    def log_mass(self) -> tuple[float, float]:
        """(log Σ R over the strings that the task wants, upper bound of log Σ R over all others); of R^(1/T) where
        `mass_temperature` is not 1. Nats.

        The second is what a floor under impossible strings adds. `validate` rejects a recipe where it may exceed 1 % of
        the first at the reward temperature that the run ends with. (nan, nan) where they are not known.
        """
        return float("nan"), float("nan")

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        """Prompt id -> [(token ids, log R)] of the strings that carry the target's mass; {} if they can't be listed.

        With it the learner reports its exact distance to the target. `validate` rejects a list with a string that the
        policy can't write. A string that a tool wrote into holds the tool's text, as in a response.
        """
        return {}

    def prior(self, prompt: Prompt) -> IntArray | None:
        """[C] tokens of a context behind which the frozen base model writes no string with less probability than its
        reward: R(Z ⊤) <= p(Z ⊤), where p is its probability under the policy's limits. None if there is no such
        context, or if it is not known.

        Terms in `largest_terms` do not count here: they may raise R by as much. Draws of p that are accepted with
        probability R / (p · that bound) are exact draws of the target, and the certificate of
        `tributary evaluate` rests on them. A target p_LM(Z Y | X) · c with c <= 1 has one: X.
        """
        return None

    def simulated(self, prompt: Prompt, number: int, token_ids: IntArray, target: IntArray) -> Prompt | None:
        """A prompt of the split "simulated", for a target Y that the base model wrote itself; None if Y is not free.

        `token_ids` [T] is the response Z that it wrote behind `prior(prompt)`, `target` [Y] what it wrote behind Z:
        ⊤, a text, ⊤. Z is then an exact draw of the target of the new prompt, the `number`th.
        """
        return None

    def histogram(self, samples: Sequence[Sample]) -> NDArray[np.int_] | None:
        """[K] counts of the outcomes 0..K-1, drawn as histogram.png; None for a task without such outcomes."""
        return None


def check_terms(terms: Terms, n_tokens: int, task: str, whole_strings_only: bool = False) -> FloatArray:
    """Stack terms to [K, T+1] float32, or [K, 1] for whole strings. Raise RewardError for bad names, wrong shapes or
    values that are not finite."""
    if not isinstance(terms, Mapping) or not terms:
        raise RewardError(
            f"task {task!r} returned no reward term: log_reward must return a dict of one or more arrays."
        )
    check_names(terms, f"reward terms of task {task!r}")
    for name, values in terms.items():
        values = np.asarray(values)
        wanted = 1 if whole_strings_only else n_tokens + 1
        if values.shape != (wanted,):
            raise RewardError(
                f"reward term {name!r} of task {task!r} has shape {values.shape} for a response of {n_tokens} tokens. "
                f"It must be ({wanted},): return one value "
                + ("for the whole string." if whole_strings_only else "for every prefix, including the empty one.")
            )
        if values.dtype.kind not in "fiub" or not np.isfinite(values.astype(np.float32)).all():
            where = next(i for i, v in enumerate(values.tolist()) if not _is_finite(v))
            raise RewardError(
                f"reward term {name!r} of task {task!r} is {values[where]} at prefix {where} of a response of "
                f"{n_tokens} tokens. log R must be finite everywhere: give impossible strings a floor (relative to the "
                "base model's log-probability, such as log 0.01 + log p_LM) instead of -inf, and look for a division "
                "by 0 or a log of 0."
            )
    return np.stack([np.asarray(values, dtype=np.float32) for values in terms.values()])


def check_names(names: Collection[object], owner: str) -> None:
    """Raise RewardError unless `names` are few, short and printable, so that they can be stored with every string."""
    if len(names) > MAX_NAMES:
        raise RewardError(f"{owner}: {len(names)} names; at most {MAX_NAMES} are allowed. Merge some of them.")
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise RewardError(
                f"{owner}: {name!r:.80} is not a valid name. Use 1 to {MAX_NAME_LENGTH} printable characters."
            )


def _is_finite(value: object) -> bool:
    """True if `value` is a number that is finite in float32."""
    with np.errstate(over="ignore"):
        return isinstance(value, (int, float)) and bool(np.isfinite(np.float32(value)))
