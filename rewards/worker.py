"""The reward worker: log R at every prefix, then into the buffer.

consumes   unscored trajectories (calls from actors, bounded in flight)
produces   scored trajectories -> ReplayBuffer.add; those that can't be scored, with the reason -> its quarantine
waits for  nothing
unblocked by  RolloutActor
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from buffer.errors import RewardError
from buffer.poison_strings import PoisonStrings
from buffer.replay import AddResult, ReplayBuffer
from buffer.types import IntArray, Prompt, Trajectory
from rewards.config import RewardConfig
from rewards.scorer import BaseScorer, Failure, Score, Scorer, sample_terms
from rewards.task import Sample, Task


class RewardWorker:
    """Scores batches of trajectories of one task."""

    def __init__(
        self,
        name: str,
        task_name: str,
        task: Task,
        base: BaseScorer | None,
        buffer: ReplayBuffer,
        suspects: PoisonStrings,
        config: RewardConfig,
    ) -> None:
        """`base` may be None for a task that does not need it."""
        self._name = name
        self._task_name = task_name
        self._prompts = {prompt.id: prompt for split in task.splits for prompt in task.prompts(split)}
        self._buffer = buffer
        self._suspects = suspects
        self._config = config
        self._scorer = Scorer(task, base, config, self._named)
        self._failed_in_a_row = 0

    def score(self, trajectories: Sequence[Trajectory]) -> AddResult:
        """Score and store. Raise RewardError when rewards.advanced.max_failures strings in a row can't be scored."""
        began = time.perf_counter()
        found = self._scores([self._prompts[t.prompt_id] for t in trajectories], [t.token_ids for t in trajectories])
        seconds = (time.perf_counter() - began) / len(trajectories)
        pairs = list(zip(trajectories, found, strict=True))
        failed = [(t, score.reason) for t, score in pairs if isinstance(score, Failure)]
        self._buffer.reject([t for t, _ in failed], [reason for _, reason in failed])
        self._count_failures(found)
        return self._buffer.add([_scored(t, s, self._task_name, seconds) for t, s in pairs if isinstance(s, Score)])

    def score_samples(self, prompt: Prompt, responses: Sequence[IntArray], log_q: Sequence[float]) -> list[Sample]:
        """Samples with their log R, for judging; those that can't be scored are left out."""
        found = self._scores([prompt] * len(responses), responses)
        return [
            Sample(response, value, *sample_terms(score, self._config.weights))
            for response, value, score in zip(responses, log_q, found, strict=True)
            if isinstance(score, Score)
        ]

    def status(self) -> dict[str, Any]:
        """Figures since the start: strings asked for, found in the cache, failed; seconds of the task's functions."""
        figures = self._scorer.figures
        new = figures.asked - figures.from_cache
        return {
            "name": self._name,
            "strings": figures.asked,
            "cache_hits": figures.from_cache / figures.asked if figures.asked else 0.0,
            "failed": figures.failed,
            "last_failure": figures.last_failure,
            "function_s": figures.function_s / new if new else 0.0,
            "slowest_s": figures.slowest_s,
        }

    def _scores(self, prompts: Sequence[Prompt], responses: Sequence[IntArray]) -> list[Score | Failure]:
        found = self._scorer.score(prompts, responses, self._suspects.bad())
        self._suspects.clear()
        return found

    @contextmanager
    def _named(self, string_id: str) -> Iterator[None]:
        self._suspects.name(string_id)
        yield

    def _count_failures(self, found: Sequence[Score | Failure]) -> None:
        for score in found:
            self._failed_in_a_row = self._failed_in_a_row + 1 if isinstance(score, Failure) else 0
            if self._failed_in_a_row >= self._config.advanced.max_failures and isinstance(score, Failure):
                raise RewardError(
                    f"{self._failed_in_a_row} strings in a row could not be scored by task {self._task_name!r}, the "
                    f"last one because {score.reason}. They are in the buffer's quarantine. Mend log_reward, or raise "
                    "rewards.advanced.max_failures or rewards.time_limit_s."
                )


def _scored(trajectory: Trajectory, score: Score, task: str, seconds: float) -> Trajectory:
    labels: Mapping[str, float] = score.labels
    return replace(
        trajectory,
        log_reward=score.log_reward,
        reward_terms=score.names,
        labels=labels,
        task=task,
        scoring_s=seconds,
    )
