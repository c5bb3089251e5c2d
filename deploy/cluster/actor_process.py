"""The actor role as a Ray actor: builds an engine in its process, then runs actors.rollout.RolloutActor.

Ray calls `run` in one thread and the short methods (`status`, `stop`) in others.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from buffer.types import Prompt
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.metrics import Meter
from deploy.cluster.process_setup import (
    MAX_WORDS,
    Address,
    build_task,
    portable_errors,
    restarted_after_errors,
    wait_after_deaths,
)
from deploy.cluster.reward_client import RewardClient
from deploy.cluster.root_cause import in_words, innermost, root_cause
from deploy.cluster.scratch_folder import ScratchFolder
from deploy.telemetry.logs import process_log

if TYPE_CHECKING:
    from actors.engine_protocol import SamplingEngine
    from actors.segments import Sampled
    from buffer.tool import Tool


class ActorProcess:
    """One engine that samples."""

    @restarted_after_errors
    @portable_errors
    def __init__(self, number: int, address: Address) -> None:
        from actors.prompt_order import prompt_order
        from actors.rollout import RolloutActor
        from buffer.actor_counters import ActorCounters
        from buffer.heartbeat import Heartbeats
        from buffer.server.connect import connect

        config, name = address.config, f"actor-{number}"
        self._name, self._evaluation = name, config.evaluation
        self._store = AdapterStoreClient(ray.get_actor(address.adapter_store))
        self._log = process_log(address.buffer_name, name)
        self._meter = Meter(address.buffer_name, name)
        wait_after_deaths(self._store, name, config.actors.advanced.max_restarts, self._log)
        redis = connect(address.redis_url)
        counters = ActorCounters(redis, address.buffer_name)
        seed = life_seed(config.seed, number, counters.count_start(name))
        self._scratch = ScratchFolder()
        task = build_task(address)
        self._rollout = RolloutActor(
            name=name,
            engine=build_engine(address, task.tool, self._scratch.path, seed),
            prompts=prompt_order(task.prompts(), config.seed, config.actors.samples_per_prompt, counters.claim_turns),
            task=address.task_name,
            config=config.actors,
            adapters=self._store.latest,
            rewards=RewardClient(self._store, config.actors.count, number, config.actors.advanced.wait_limit_s),
            heartbeats=Heartbeats(redis, address.buffer_name),
            seed=seed,
        )
        self._store.note_ready(name)
        self._log.info("ready")

    def ready(self) -> bool:
        """Returns once the engine is loaded."""
        return True

    def run(self) -> None:
        """RolloutActor.run. An error that is not a TributaryError ends the process, and Ray restarts it.

        A failed engine would fail again, and a repeated call would reach the same broken one.
        """
        try:
            self._rollout.run()
        except Exception as error:
            if root_cause(error) is not None:
                raise
            self._log.exception("the engine failed; this process exits to be restarted")
            with contextlib.suppress(ray.exceptions.RayError):
                self._store.keep_last_words(self._name, in_words(innermost(error))[:MAX_WORDS])
            os._exit(1)

    def stop(self) -> None:
        """RolloutActor.stop"""
        self._rollout.stop()

    def resume(self) -> None:
        """RolloutActor.resume"""
        self._rollout.resume()

    def leave(self) -> None:
        """Stop, wait until `run` has returned, remove the files."""
        self._rollout.stop()
        self._rollout.wait_until_stopped()
        self.close()

    def close(self) -> None:
        """Remove the adapters' files: when Ray kills the process, only the next actor of this machine would."""
        self._scratch.cleanup()

    def status(self) -> dict[str, Any]:
        """RolloutActor.status; also exports it as metrics."""
        status = self._rollout.status()
        self._meter.actor(status)
        return status

    def sample(self, prompts: Sequence[Prompt], n: int, use_base_model: bool) -> "dict[str, list[Sampled]]":
        """RolloutActor.sample from the newest published version."""
        self._store.sync()
        return self._rollout.sample(prompts, n, use_base_model, self._evaluation.cores)


def life_seed(seed: int, number: int, life: int) -> int:
    """The seed of an actor's engine and behaviours: differs between actors, and between the starts of one. 31 bits."""
    return int(np.random.SeedSequence((seed, number, life)).generate_state(1)[0] >> 1)


def build_engine(address: Address, tool: "Tool | None", folder: Path, seed: int) -> "SamplingEngine":
    """The engine that the recipe chooses; `folder` receives adapter files."""
    config = address.config.actors
    if config.engine == "simulated":
        from actors.simulated import SimulatedEngine

        return SimulatedEngine(address.spec, config.advanced.simulated_rate, seed)
    from actors.engine import Engine

    return Engine(address.spec, config, folder, seed, on_gpu=config.gpus > 0, tool=tool)
