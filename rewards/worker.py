"""The reward worker: log R at every prefix, then into the buffer.

consumes   unscored trajectories (calls from actors, bounded in flight)
produces   scored trajectories -> ReplayBuffer.add
waits for  nothing
unblocked by  RolloutActor
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from buffer.replay import AddResult, ReplayBuffer
from buffer.types import FloatArray, Trajectory
from rewards.base_model import BaseModel
from rewards.config import RewardConfig
from rewards.task import Task, check_terms


@dataclass(frozen=True, slots=True)
class Score:
    """What one string is worth; the same whoever sampled it."""

    names: tuple[str, ...]
    log_reward: FloatArray
    """[K, T+1] nats"""
    labels: Mapping[str, float]


class RewardWorker:
    """Scores batches of trajectories of one task."""

    def __init__(
        self, name: str, task: Task, base: BaseModel | None, buffer: ReplayBuffer, config: RewardConfig
    ) -> None:
        """`base` may be None for a task that does not need it."""
        self._name = name
        self._task = task
        self._prompts = {prompt.id: prompt for prompt in task.prompts()}
        self._base = base
        self._buffer = buffer
        self._cache_size = config.cache_size
        self._cache: OrderedDict[tuple[str, bytes], Score] = OrderedDict()

    def score(self, trajectories: Sequence[Trajectory]) -> AddResult:
        """Score and store. Raises RewardError when the task's reward breaks its contract."""
        began = time.perf_counter()
        keys = [(t.prompt_id, t.token_ids.tobytes()) for t in trajectories]
        new = {key: t for key, t in zip(keys, trajectories, strict=True) if key not in self._cache}
        scores = dict(zip(new, self._score_new(list(new.values())), strict=True))
        for key in keys:
            if key not in scores:
                self._cache.move_to_end(key)
                scores[key] = self._cache[key]
        seconds = (time.perf_counter() - began) / len(trajectories)
        added = self._buffer.add(
            [
                replace(
                    t,
                    log_reward=s.log_reward,
                    reward_terms=s.names,
                    labels=s.labels,
                    task=self._name,
                    scoring_s=seconds,
                )
                for t, s in ((t, scores[key]) for key, t in zip(keys, trajectories, strict=True))
            ]
        )
        self._cache.update(scores)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return added

    def _score_new(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        if not trajectories:
            return []
        responses = [t.token_ids for t in trajectories]
        base = (
            self._base.log_probs([t.prompt_token_ids for t in trajectories], responses)
            if self._base
            else [None] * len(responses)
        )
        scores = []
        for t, said in zip(trajectories, base, strict=True):
            prompt = self._prompts[t.prompt_id]
            terms = self._task.log_reward(prompt, t.token_ids, said)
            log_reward = np.ascontiguousarray(check_terms(terms, len(t.token_ids), self._name))
            scores.append(Score(tuple(terms), log_reward, dict(self._task.labels(prompt, t.token_ids))))
        return scores
