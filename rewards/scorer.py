"""Log R of strings at every prefix: the frozen model's answers, the task's terms, a cache by content.

Shapes   T response tokens, K terms.
"""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from buffer.types import FloatArray, IntArray, Prompt
from rewards.config import RewardConfig
from rewards.task import BaseLogProbs, ScoreRequest, Task, check_names, check_terms
from rewards.time_limit import Failed, guarded

LENGTH = "length"
"""The term of rewards.length_penalty."""


class BaseScorer(Protocol):
    """A frozen model: rewards/base_model.py, or rewards/vllm_scorer.py."""

    def score(self, questions: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """What it says of each response to each question, side by side."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one string is worth; the same whoever sampled it."""

    names: tuple[str, ...]
    """[K]"""
    log_reward: FloatArray
    """[K, T+1] nats, unweighted, untempered"""
    labels: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """A string that could not be scored."""

    reason: str


@dataclass(slots=True)
class Figures:
    """Since the start."""

    asked: int = 0
    """Strings."""
    from_cache: int = 0
    failed: int = 0
    function_s: float = 0.0
    """In the task's own functions, for strings that were not in the cache."""
    slowest_s: float = 0.0
    last_failure: str = ""


class Scorer:
    """Of one task. `around` is entered before a string meets the task's functions, and left after."""

    def __init__(
        self,
        task: Task,
        base: BaseScorer | None,
        config: RewardConfig,
        around: Callable[[str], AbstractContextManager[None]] = lambda string_id: nullcontext(),
    ) -> None:
        """`base` may be None for a task that does not need it."""
        self._task = task
        self._base = base
        self._config = config
        self._around = around
        self._questions: dict[str, Sequence[ScoreRequest]] = {}
        self._cache: OrderedDict[str, Score] = OrderedDict()
        self.figures = Figures()

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[IntArray], bad: frozenset[str] = frozenset()
    ) -> list[Score | Failure]:
        """Score B responses, each to its prompt; `bad` are ids of strings that must not be tried."""
        ids = [string_id(prompt.id, response) for prompt, response in zip(prompts, responses, strict=True)]
        found: dict[str, Score | Failure] = {}
        for name in ids:
            if name in bad:
                found[name] = Failure("the process that scored it before ended meanwhile")
            elif name in self._cache:
                self._cache.move_to_end(name)
                found[name] = self._cache[name]
        new = {
            name: (prompt, response)
            for name, prompt, response in zip(ids, prompts, responses, strict=True)
            if name not in found
        }
        self.figures.asked += len(ids)
        self.figures.from_cache += len(ids) - len(new)
        found |= self._score_new(new)
        self._keep(found)
        return [found[name] for name in ids]

    def _score_new(self, new: Mapping[str, tuple[Prompt, IntArray]]) -> dict[str, Score | Failure]:
        questions = {name: self._asked(prompt) for name, (prompt, _) in new.items()}
        pairs = [(question, new[name][1]) for name, some in questions.items() for question in some]
        base_scores = iter(
            self._base.score([q for q, _ in pairs], [z for _, z in pairs]) if self._base and pairs else ()
        )
        return {
            name: self._one(name, prompt, response, [next(base_scores) for _ in questions[name]])
            for name, (prompt, response) in new.items()
        }

    def _one(
        self, name: str, prompt: Prompt, response: IntArray, base_scores: Sequence[BaseLogProbs]
    ) -> Score | Failure:
        began = time.perf_counter()
        try:
            with self._around(name):
                return guarded(
                    lambda: self._ask_task(prompt, response, base_scores), self._config.time_limit_s, "log_reward"
                )
        except Failed as error:
            self.figures.failed += 1
            self.figures.last_failure = str(error)
            return Failure(str(error))
        finally:
            seconds = time.perf_counter() - began
            self.figures.function_s += seconds
            self.figures.slowest_s = max(self.figures.slowest_s, seconds)

    def _ask_task(self, prompt: Prompt, response: IntArray, base_scores: Sequence[BaseLogProbs]) -> Score:
        response = response.copy()
        response.flags.writeable = False  # it is the trajectory's own
        terms = dict(self._task.log_reward(prompt, response, base_scores))
        if self._config.length_penalty:
            terms[LENGTH] = -self._config.length_penalty * np.arange(len(response) + 1)
        log_reward = np.ascontiguousarray(check_terms(terms, len(response), type(self._task).__name__))
        given = self._task.labels(prompt, response)
        check_names(given, "labels")
        labels = {str(name): float(value) for name, value in given.items()}
        if wrong := [name for name, value in labels.items() if not math.isfinite(value)]:
            raise ValueError(f"labels has {wrong[0]} = {labels[wrong[0]]}: it must be finite")
        return Score(tuple(map(str, terms)), log_reward, labels)

    def _asked(self, prompt: Prompt) -> Sequence[ScoreRequest]:
        if prompt.id not in self._questions:
            self._questions[prompt.id] = list(self._task.score_requests(prompt))
        return self._questions[prompt.id]

    def _keep(self, found: Mapping[str, Score | Failure]) -> None:
        """Failures are tried again: the next time may be another."""
        self._cache.update((name, score) for name, score in found.items() if isinstance(score, Score))
        while len(self._cache) > self._config.advanced.cache_size:
            self._cache.popitem(last=False)


def string_id(prompt_id: str, response: IntArray) -> str:
    """32 hex digits; the same for the same response [T] to the same prompt."""
    digest = hashlib.blake2b(prompt_id.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\0")
    digest.update(response.astype("<i4").tobytes())
    return digest.hexdigest()


def sample_terms(score: Score, weights: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """(log R of the whole string, weighted; each term of it, unweighted), nats."""
    terms = {name: float(values[-1]) for name, values in zip(score.names, score.log_reward, strict=True)}
    total = sum(weights.get(name, 1.0) * value for name, value in terms.items() if not name.startswith("_"))
    return total, terms
