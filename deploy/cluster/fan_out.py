"""Work split over the actors and reward workers: samples for the evaluation, demonstrations to score."""

from collections.abc import Callable, Sequence

import ray

from buffer.types import Prompt, Trajectory
from deploy.cluster.ray_calls import Call, Handle
from rewards.task import Sample

POLL_S = 0.5
PendingSamples = Callable[[], dict[str, list[Sample]] | None]
"""Prompt id -> scored samples; None while they are being drawn and scored. Waits up to POLL_S."""
PendingScores = Callable[[], bool]
"""True once all trajectories are scored; raises what a reward worker raised. Waits up to POLL_S."""


def draw_samples(
    actors: Sequence[Handle],
    workers: Sequence[Handle],
    prompts: Sequence[Prompt],
    n: int,
    use_base_model: bool,
    threads: int,
) -> PendingSamples:
    """Start to draw n on-policy responses of each prompt, split over the actors, and to score them."""
    shares = [n // len(actors) + (k < n % len(actors)) for k in range(len(actors))]
    drawing: list[Call] = [
        actor.sample.options(max_task_retries=-1).remote(
            prompts, share, use_base_model, threads
        )  # it may be restarting
        for actor, share in zip(actors, shares, strict=True)
        if share
    ]
    scoring: list[Call] = [  # passed on by Ray's object store, not through this process
        workers[k % len(workers)].score_samples.remote(prompts, drawn) for k, drawn in enumerate(drawing)
    ]

    def result() -> dict[str, list[Sample]] | None:
        _, pending = ray.wait(scoring, num_returns=len(scoring), timeout=POLL_S)
        if pending:
            return None
        samples: dict[str, list[Sample]] = {prompt.id: [] for prompt in prompts}
        scored: list[dict[str, list[Sample]]] = ray.get(scoring)
        for part in scored:
            for prompt_id, prompt_samples in part.items():
                samples[prompt_id] += prompt_samples
        return samples

    return result


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
