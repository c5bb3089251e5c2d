"""The reward role as a Ray actor: loads the frozen base model in its process, then runs rewards.worker.RewardWorker."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from buffer.types import Prompt, Trajectory
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.heartbeat_thread import start_heartbeats
from deploy.cluster.metrics import Meter
from deploy.cluster.process_setup import (
    Address,
    bound_gpu_memory,
    build_task,
    portable_errors,
    restarted_after_errors,
    set_threads,
    wait_after_deaths,
)
from deploy.telemetry.logs import process_log
from learner.config import WHOLE_STRING_OBJECTIVES

if TYPE_CHECKING:
    from actors.segments import Sampled
    from rewards.scorer import BaseScorer
    from rewards.task import Sample


class RewardProcess:
    """Scores trajectories and adds them to the buffer. Ray runs one call at a time."""

    @restarted_after_errors
    @portable_errors
    def __init__(self, number: int, address: Address) -> None:
        from buffer.poison_strings import PoisonStrings
        from buffer.replay import ReplayBuffer
        from buffer.server.connect import connect
        from rewards.load_scorer import load_scorer
        from rewards.worker import RewardWorker

        config, name = address.config, f"reward-{number}"
        log = process_log(address.buffer_name, name)
        self._meter = Meter(address.buffer_name, name)
        store = AdapterStoreClient(ray.get_actor(address.adapter_store))
        wait_after_deaths(store, name, config.rewards.advanced.max_restarts, log)
        client = connect(address.redis_url)
        if config.rewards.scorer == "transformers":  # vLLM bounds its cache itself, and its graphs need fixed segments
            bound_gpu_memory(config.rewards.gpus)
        set_threads(config.rewards.threads)
        task = build_task(address)
        base: BaseScorer | None = None
        if task.needs_base_model:
            base = load_scorer(address.spec, config.rewards, config.actors.max_model_len, config.actors.kv_cache_gib)
        buffer = ReplayBuffer(client, config.buffer, address.buffer_name, config.rewards.term_weights)
        poison_strings = PoisonStrings(client, address.buffer_name, name)
        self._worker = RewardWorker(
            name,
            address.task_name,
            task,
            base,
            buffer,
            poison_strings,
            config.rewards,
            address.spec.min_actions,
            whole_strings=config.learner.objective in WHOLE_STRING_OBJECTIVES,
        )
        start_heartbeats(store, name)
        store.note_ready(name)
        log.info("ready")

    def ready(self) -> bool:
        """Returns once the base model is loaded."""
        return True

    def score(self, trajectories: Sequence[Trajectory]) -> int:
        """RewardWorker.score; returns the number of new trajectories."""
        return self._worker.score(trajectories).added

    def score_samples(
        self, prompts: Sequence[Prompt], drawn: "Mapping[str, Sequence[Sampled]]"
    ) -> "dict[str, list[Sample]]":
        """RewardWorker.score_samples for each prompt; `drawn`: prompt id -> its responses."""
        return {
            prompt.id: self._worker.score_samples(
                prompt, [s.token_ids for s in drawn[prompt.id]], [s.log_q for s in drawn[prompt.id]]
            )
            for prompt in prompts
        }

    def status(self) -> dict[str, Any]:
        """RewardWorker.status; also exports it as metrics."""
        status = self._worker.status()
        self._meter.reward(status)
        return status

    def leave(self) -> None:
        """Returns once all earlier calls are done: Ray runs one at a time."""
