"""A process that loads nothing and tells which GPUs Ray gave it."""

from typing import Any

import ray


class PlacedProcess:
    """Stands for an actor, a reward worker or a learner rank: it reserves what their section of a recipe says."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def ready(self, *arguments: Any) -> list[int]:
        """Numbers of its GPUs."""
        return [int(gpu) for gpu in ray.get_gpu_ids()]

    def meeting_point(self) -> str:
        """As LearnerProcess."""
        return ""

    def close(self) -> None:
        """As ActorProcess."""
