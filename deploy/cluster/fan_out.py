"""Work split over the actors and reward workers: samples for the evaluation, demonstrations to score."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray

from buffer.types import Prompt, Trajectory
from deploy.cluster.ray_calls import Call, Handle
from rewards.task import Sample

if TYPE_CHECKING:
    from actors.segments import Sampled

POLL_S = 0.5
PendingScores = Callable[[], bool]
"""True once all trajectories are scored; raises what a reward worker raised. Waits up to POLL_S."""


class PendingSamples:
    """Responses that are being drawn and scored."""

    def __init__(self, prompts: Sequence[Prompt], parts: Sequence[Call], workers: Sequence[Handle]) -> None:
        """`parts`: prompt id -> responses, each part drawn by another actor."""
        self._prompts, self._parts = prompts, parts
        self._scoring: list[Call] = [  # passed on by Ray's object store, not through this process
            workers[k % len(workers)].score_samples.remote(prompts, part) for k, part in enumerate(parts)
        ]

    def result(self) -> dict[str, list[Sample]] | None:
        """Prompt id -> scored samples; None while they are not ready. Waits up to POLL_S."""
        _, pending = ray.wait(self._scoring, num_returns=len(self._scoring), timeout=POLL_S)
        return None if pending else self._joined(self._scoring)

    def drawn(self) -> "dict[str, list[Sampled]] | None":
        """Prompt id -> responses as they were drawn, once `result` is there; None where their node is gone since."""
        try:
            return self._joined(self._parts)
        except ray.exceptions.RayError:
            return None

    def _joined(self, calls: Sequence[Call]) -> dict[str, list[Any]]:
        parts: list[dict[str, list[Any]]] = ray.get(list(calls))
        return {prompt.id: [one for part in parts for one in part[prompt.id]] for prompt in self._prompts}


def draw_samples(actors: Sequence[Handle], prompts: Sequence[Prompt], n: int, use_base_model: bool) -> list[Call]:
    """Start to draw n on-policy responses of each prompt, split over the actors."""
    shares = [n // len(actors) + (k < n % len(actors)) for k in range(len(actors))]
    return [
        actor.sample.options(max_task_retries=-1).remote(prompts, share, use_base_model)  # it may be restarting
        for actor, share in zip(actors, shares, strict=True)
        if share
    ]


def score_trajectories(workers: Sequence[Handle], trajectories: Sequence[Trajectory], batch_size: int) -> PendingScores:
    """Start to score trajectories and to add them to the buffer, in batches split over the workers."""
    batches = [trajectories[begin : begin + batch_size] for begin in range(0, len(trajectories), batch_size)]
    calls: list[Call] = [workers[k % len(workers)].score.remote(batch) for k, batch in enumerate(batches)]

    def is_done() -> bool:
        if calls:
            finished, calls[:] = ray.wait(calls, num_returns=len(calls), timeout=POLL_S)
            ray.get(finished)
        return not calls

    return is_done
