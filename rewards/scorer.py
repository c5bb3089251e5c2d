"""The scorer: base-model scores and a task's terms -> log R of strings at every prefix, cached by content.

Shapes   B strings of a call, T response tokens, K terms.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from buffer.errors import RewardError
from buffer.types import FloatArray, IntArray, Prompt, content_id
from rewards.config import LENGTH, RewardConfig
from rewards.task import BaseLogProbs, ScoreRequest, Task, Terms, check_names, check_terms
from rewards.time_limit import CallFailed, call_with_limit
from rewards.user_frame import place_of


class BaseScorer(Protocol):
    """A frozen base model that evaluates score requests."""

    def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray], /) -> list[BaseLogProbs]:
        """Log-probabilities of responses[k] under requests[k], for each k."""


@dataclass(frozen=True, slots=True)
class Score:
    """log R of one string at every prefix, and its labels. It depends on the string only, not on who sampled it."""

    term_names: tuple[str, ...]
    """[K]"""
    log_reward: FloatArray
    """[K, T+1] nats, unweighted, untempered; [K, 1] where the whole string alone was scored"""
    labels: Mapping[str, float]
    last_only: bool = False
    """The prefixes were not scored, though the task gives them a reward."""

    def of_whole_string(self) -> Self:
        """Without the values of prefixes, behind which no target was scored."""
        return replace(self, log_reward=np.ascontiguousarray(self.log_reward[:, -1:]), last_only=True)


@dataclass(frozen=True, slots=True)
class Failure:
    """A string that could not be scored."""

    reason: str

    def of_whole_string(self) -> Self:
        """Itself."""
        return self


@dataclass(slots=True)
class ScorerCounters:
    """Totals since the scorer was created."""

    strings: int = 0
    """Strings requested, cached ones included."""
    cache_hits: int = 0
    failures: int = 0
    function_s: float = 0.0
    """Time in the task's own functions."""
    slowest_s: float = 0.0
    """Longest time in the task's own functions for one string."""
    last_failure: str = ""


class Scorer:
    """Scores strings of one task."""

    def __init__(
        self,
        task: Task,
        base: BaseScorer | None,
        config: RewardConfig,
        before_scoring: Callable[[str], None] = lambda string_id: None,
        stops: Callable[[IntArray], IntArray] | None = None,
    ) -> None:
        """`base` may be None for a task that does not need it. `stops` gives the lengths of a string's prefixes at
        which the policy may stop, T among them; None: it may stop at all.

        `before_scoring` is called with a string's id just before the task's functions see the string.
        """
        self._task = task
        self._base = base
        self._config = config
        self._before_scoring = before_scoring
        self._stops = stops
        self._requests: dict[str, Sequence[ScoreRequest]] = {}
        self._cache: OrderedDict[str, Score] = OrderedDict()
        self.counters = ScorerCounters()

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[IntArray],
        poison_ids: frozenset[str] = frozenset(),
        whole_strings: bool = False,
    ) -> list[Score | Failure]:
        """Score B responses, each to its prompt. Strings whose id is in `poison_ids` fail without being tried.

        `whole_strings`: only the last prefix is going to be read. The others are left out where scoring them takes
        passes of the base model.
        """
        ids = [
            content_id(prompt.id, prompt.token_ids, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        scores: dict[str, Score | Failure] = {}
        for key in ids:
            if key in poison_ids:
                scores[key] = Failure("earlier attempts to score it ended the worker's process")
            elif key in self._cache and (whole_strings or not self._cache[key].last_only):
                self._cache.move_to_end(key)
                scores[key] = self._cache[key]
        new = {
            key: (prompt, response)
            for key, prompt, response in zip(ids, prompts, responses, strict=True)
            if key not in scores
        }
        self.counters.strings += len(ids)
        self.counters.cache_hits += len(ids) - len(new)
        scored = self._score_new(new, whole_strings)
        self._add_to_cache(scored)
        scores |= scored
        return [scores[key] for key in ids]

    def _score_new(self, new: Mapping[str, tuple[Prompt, IntArray]], whole_strings: bool) -> dict[str, Score | Failure]:
        requests = {
            key: [self._placed(request, response, whole_strings) for request in self._score_requests(prompt)]
            for key, (prompt, response) in new.items()
        }
        pairs = [(request, new[key][1]) for key, of_string in requests.items() for request in of_string]
        base_scores = iter(
            self._base.score([request for request, _ in pairs], [response for _, response in pairs])
            if self._base and pairs
            else ()
        )
        batch_terms = self._batch_terms(new)
        scored = {
            key: self._score_one(key, prompt, response, [next(base_scores) for _ in requests[key]], batch_terms[key])
            for key, (prompt, response) in new.items()
        }
        if not whole_strings:
            return scored
        return {
            key: score.of_whole_string() if any(r.at_stops for r in requests[key]) else score
            for key, score in scored.items()
        }

    def _placed(self, request: ScoreRequest, response: IntArray, whole_strings: bool) -> ScoreRequest:
        """The request with the prefixes of a response behind which its target is needed."""
        if not request.at_stops:
            return request
        if whole_strings:
            return replace(request, behind=np.array([len(response)], dtype=np.int32))
        return request if self._stops is None else replace(request, behind=self._stops(response))

    def _batch_terms(self, new: Mapping[str, tuple[Prompt, IntArray]]) -> Mapping[str, Terms | RewardError]:
        """The terms that the task computes for all new strings at once; if that fails, for one after the other."""
        began = time.perf_counter()
        try:
            terms = self._task.batch_terms([prompt for prompt, _ in new.values()], [ids for _, ids in new.values()])
            if len(terms) != len(new):
                raise ValueError(f"it returned {len(terms)} results for {len(new)} strings")
        except Exception as error:  # user code
            if len(new) > 1:
                alone = [self._batch_terms({key: pair}) for key, pair in new.items()]
                return {key: terms for of_one in alone for key, terms in of_one.items()}
            terms = [RewardError(f"batch_terms raised {type(error).__name__}: {error}{place_of(error)}")]
        self.counters.function_s += time.perf_counter() - began
        return dict(zip(new, terms, strict=True))

    def _score_one(
        self,
        key: str,
        prompt: Prompt,
        response: IntArray,
        base_scores: Sequence[BaseLogProbs],
        batch_terms: Terms | RewardError,
    ) -> Score | Failure:
        if isinstance(batch_terms, RewardError):
            return self._failed(str(batch_terms))
        began = time.perf_counter()
        try:
            self._before_scoring(key)
            return call_with_limit(
                lambda: self._call_task(prompt, response, base_scores, batch_terms),
                self._config.time_limit_s,
                "log_reward",
            )
        except CallFailed as error:
            return self._failed(str(error))
        finally:
            seconds = time.perf_counter() - began
            self.counters.function_s += seconds
            self.counters.slowest_s = max(self.counters.slowest_s, seconds)

    def _failed(self, reason: str) -> Failure:
        self.counters.failures += 1
        self.counters.last_failure = reason
        return Failure(reason)

    def _call_task(
        self, prompt: Prompt, response: IntArray, base_scores: Sequence[BaseLogProbs], batch_terms: Terms
    ) -> Score:
        response = response.copy()
        response.flags.writeable = False  # the task must not change it between its calls
        terms = {**self._task.log_reward(prompt, response, base_scores), **batch_terms}
        whole = self._task.whole_strings_only
        if self._config.length_penalty:
            tokens = np.arange(len(response) + 1)
            terms[LENGTH] = -self._config.length_penalty * (tokens[-1:] if whole else tokens)
        log_reward = np.ascontiguousarray(check_terms(terms, len(response), type(self._task).__name__, whole))
        labels = self._task.labels(prompt, response)
        check_names(labels, "labels")
        labels = {str(name): float(value) for name, value in labels.items()}
        if bad := [name for name, value in labels.items() if not math.isfinite(value)]:
            raise ValueError(f"label {bad[0]!r} is {labels[bad[0]]}: it must be finite")
        return Score(tuple(map(str, terms)), log_reward, labels)

    def _score_requests(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        if prompt.id not in self._requests:
            self._requests[prompt.id] = list(self._task.score_requests(prompt))
        return self._requests[prompt.id]

    def _add_to_cache(self, scores: Mapping[str, Score | Failure]) -> None:
        """Failures are not cached: a later attempt may succeed."""
        self._cache.update((key, score) for key, score in scores.items() if isinstance(score, Score))
        while len(self._cache) > self._config.advanced.cache_size:
            self._cache.popitem(last=False)


def sample_terms(score: Score, weights: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """(log R of the whole string, weighted; each of its terms, unweighted), nats."""
    terms = {name: float(values[-1]) for name, values in zip(score.term_names, score.log_reward, strict=True)}
    total = sum(weights.get(name, 1.0) * value for name, value in terms.items() if not name.startswith("_"))
    return total, terms
