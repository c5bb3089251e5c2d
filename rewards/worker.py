"""The reward worker: computes log R at every prefix and adds the scored trajectories to the buffer.

consumes   unscored trajectories (calls from actors, bounded in flight)
produces   scored trajectories -> ReplayBuffer.add; those that can't be scored, with the reason -> its quarantine
waits for  nothing
unblocked by  RolloutActor
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from buffer.errors import RewardError
from buffer.poison_strings import PoisonStrings
from buffer.replay import AddResult, ReplayBuffer
from buffer.tool import stops_of
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
        poison_strings: PoisonStrings,
        config: RewardConfig,
        min_actions: int = 0,
        whole_strings: bool = False,
    ) -> None:
        """`base` may be None for a task that does not need it; `min_actions` is the policy's. `whole_strings`: the
        learner's objective does not read the rewards of prefixes."""
        self._name = name
        self._task_name = task_name
        self._prompts = {prompt.id: prompt for split in task.splits for prompt in task.prompts(split)}
        self._buffer = buffer
        self._poison_strings = poison_strings
        self._config = config
        self._whole_strings = whole_strings
        self._scorer = Scorer(task, base, config, poison_strings.mark, lambda z: stops_of(z, task.tool, min_actions))
        self._failures_in_a_row = 0

    def score(self, trajectories: Sequence[Trajectory]) -> AddResult:
        """Score and store. Raise RewardError when rewards.advanced.max_failures strings in a row can't be scored."""
        began = time.perf_counter()
        prompts = [self._prompts[trajectory.prompt_id] for trajectory in trajectories]
        scores = self._scores(prompts, [t.token_ids for t in trajectories], self._whole_strings)
        seconds = (time.perf_counter() - began) / len(trajectories)
        pairs = list(zip(trajectories, scores, strict=True))
        failed = [(t, score.reason) for t, score in pairs if isinstance(score, Failure)]
        self._buffer.reject([t for t, _ in failed], [reason for _, reason in failed])
        result = self._buffer.add(
            [
                replace(
                    trajectory,
                    log_reward=score.log_reward,
                    reward_terms=score.term_names,
                    labels=score.labels,
                    task=self._task_name,
                    scoring_s=seconds,
                )
                for trajectory, score in pairs
                if isinstance(score, Score)
            ]
        )
        self._count_failures(scores)  # may raise: what was scored is stored before
        return result

    def score_samples(self, prompt: Prompt, responses: Sequence[IntArray], log_q: Sequence[float]) -> list[Sample]:
        """Responses with their log R, for evaluation; those that can't be scored are omitted."""
        scores = self._scores([prompt] * len(responses), responses, whole_strings=True)
        return [
            Sample(response, value, *sample_terms(score, self._config.term_weights))
            for response, value, score in zip(responses, log_q, scores, strict=True)
            if isinstance(score, Score)
        ]

    def status(self) -> dict[str, Any]:
        """Figures since the start: strings requested, share of cache hits, failures, s of the task's functions."""
        counters = self._scorer.counters
        new = counters.strings - counters.cache_hits
        return {
            "name": self._name,
            "strings": counters.strings,
            "cache_hits": counters.cache_hits / counters.strings if counters.strings else 0.0,
            "failed": counters.failures,
            "last_failure": counters.last_failure,
            "function_s": counters.function_s / new if new else 0.0,
            "slowest_s": counters.slowest_s,
        }

    def _scores(
        self, prompts: Sequence[Prompt], responses: Sequence[IntArray], whole_strings: bool
    ) -> list[Score | Failure]:
        scores = self._scorer.score(prompts, responses, self._poison_strings.ids(), whole_strings)
        self._poison_strings.unmark()
        return scores

    def _count_failures(self, scores: Sequence[Score | Failure]) -> None:
        for score in scores:
            self._failures_in_a_row = self._failures_in_a_row + 1 if isinstance(score, Failure) else 0
            if self._failures_in_a_row >= self._config.advanced.max_failures and isinstance(score, Failure):
                raise RewardError(
                    f"{self._failures_in_a_row} strings in a row could not be scored by task {self._task_name!r}, the "
                    f"last one because {score.reason}. They are in the buffer's quarantine. Fix log_reward, or raise "
                    "rewards.advanced.max_failures or rewards.time_limit_s."
                )
