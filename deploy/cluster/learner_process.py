"""The learner role as a Ray actor: loads the policy in its process, then runs learner.learner.Learner.

Ray calls `run` in one thread and the short methods (`report`, `stop`) in others.
"""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from buffer.config import BufferConfig
from buffer.tool import actions_of
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, Trajectory, given_trajectory
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.metrics import Meter
from deploy.cluster.process_setup import Address, bound_gpu_memory, build_task, portable_errors, set_threads
from deploy.config import RunConfig
from deploy.telemetry.logs import process_log

if TYPE_CHECKING:
    from rewards.task import Task


class LearnerProcess:
    """Draws batches and updates the adapter; one of `learner.ranks` processes that act as one learner."""

    @portable_errors
    def __init__(self, address: Address, rank: int) -> None:
        bound_gpu_memory(address.config.learner.gpus)
        import torch

        from learner.policy import LoraPolicy
        from lm.load import device_of

        self._address, self._rank = address, rank
        self._listener: socket.socket | None = None
        config = address.config.learner
        set_threads(config.threads)
        torch.manual_seed(address.config.seed)  # the same on every rank, so the fresh adapter is too
        self._log = process_log(address.buffer_name, f"learner-{rank}")
        self._meter = Meter(address.buffer_name, f"learner-{rank}")
        self._store = AdapterStoreClient(ray.get_actor(address.adapter_store))
        self._publishing = threading.Lock()
        self._published: tuple[AdapterVersion, AdapterFiles] | None = None
        self._policy = LoraPolicy(address.spec, device_of(config.device, config.gpus), config.gradient_checkpointing)

    def meeting_point(self) -> str:
        """host:port where this process, as rank 0, listens for the other ranks; empty without any."""
        from learner.data_parallel import listen_at

        if self._address.config.learner.ranks == 1:
            return ""
        host = ray.util.get_node_ip_address()
        self._listener = listen_at(host)
        return f"{host}:{self._listener.getsockname()[1]}"

    @portable_errors
    def ready(self, meeting_point: str) -> bool:
        """Meet the other ranks, load the newest checkpoint, publish the adapter."""
        from buffer.heartbeat import Heartbeats
        from buffer.replay import ReplayBuffer
        from buffer.server.connect import connect
        from learner.batch_source import BatchSource
        from learner.checkpoint import Checkpoints
        from learner.data_parallel import DataParallel
        from learner.learner import Learner

        address, config = self._address, self._address.config
        set_threads(config.learner.threads)  # a thread's own setting, and Ray runs every method in another
        client, task = connect(address.redis_url), build_task(address)
        weights = config.rewards.term_weights
        buffer = ReplayBuffer(client, _learner_buffer_config(config), address.buffer_name, weights)
        self._learner = Learner(
            self._policy,
            buffer,
            config.learner,
            self._publish,
            task.prompts()[0],
            Checkpoints(Path(address.checkpoints), config.learner.advanced.keep_checkpoints),
            DataParallel(self._rank, config.learner.ranks, meeting_point, self._policy.device, self._listener),
            _support_trajectories(task) if self._rank == 0 else (),
            weights,
            config.rewards.term_weights_at,
            config.rewards.beta_at,
        )
        self._source = BatchSource(
            buffer,
            Heartbeats(client, address.buffer_name),
            batch_size=config.learner.batch_size // config.learner.ranks,
            fresh_fraction=config.learner.fresh_fraction,
            fresh_window=fresh_window(config),
            fresh_only=takes_fresh_alone(config),
            wait_limit_s=wait_limit_s(config),
            seed=config.seed,
            rank=self._rank,
            first_draw=self._learner.step_number,
        )
        return True

    def _publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        with self._publishing:
            self._published = version, files
            self._store.publish(version, files)

    def publish_again(self) -> None:
        """Publish the newest version once more, for a store that has forgotten it."""
        with self._publishing:
            if self._published:
                with suppress(ray.exceptions.RayTaskError):  # the store has it
                    self._store.publish(*self._published)

    def run(self) -> int:
        """Learner.run; returns the number of steps done."""
        set_threads(self._address.config.learner.threads)
        self._log.info("training", extra={"step": self._learner.step_number, "version": self._learner.version})
        self._learner.run(self._source)
        self._log.info("done", extra={"step": self._learner.step_number, "version": self._learner.version})
        return self._learner.step_number

    def stop(self) -> None:
        """Learner.stop"""
        self._learner.stop()

    @portable_errors
    def log_q(self, strings: Sequence[Trajectory], base_model: bool) -> FloatArray:
        """[N] log q(Z ⊤) of given strings, nats, under the newest weights or the base model. Not during `run`."""
        from learner.given_strings import log_q_of_given

        set_threads(self._address.config.evaluation.cores)
        return log_q_of_given(self._policy, strings, self._address.config.learner.max_tokens, base_model)

    def report(self) -> tuple[list[dict[str, Any]], str | None]:
        """(new rows of Learner.drain, the named wait if there is one); also exports the rows as metrics."""
        rows, wait = self._learner.drain(), self._source.waiting_for()
        self._meter.learner(rows)
        return rows, wait


def _learner_buffer_config(config: RunConfig) -> BufferConfig:
    """For sft, without waits for data: all demonstrations are in the buffer from the start and no more will come."""
    if config.learner.objective != "sft":
        return config.buffer
    return config.buffer.model_copy(update={"min_size_to_sample": 1, "samples_per_insert": 0.0})


def takes_fresh_alone(config: RunConfig) -> bool:
    """Whether a batch waits for its fresh rows. With a limit of draws per insert both sides could wait for ever."""
    no_limit = config.buffer.samples_per_insert == 0.0 and config.learner.objective != "sft"
    return config.learner.fresh_fraction == 1.0 and no_limit


def wait_limit_s(config: RunConfig) -> float:
    """Longest wait for a batch, s: no actor samples for training during an evaluation, which has a limit of its own."""
    return config.learner.advanced.wait_limit_s + (config.evaluation.limit_s if config.evaluation.every else 0.0)


def fresh_window(config: RunConfig) -> int:
    """What one step takes fresh on all ranks, or a push where that is larger: more would make fresh rows older."""
    return max(round(config.learner.batch_size * config.learner.fresh_fraction), config.actors.push_size)


def _support_trajectories(task: "Task") -> list[Trajectory]:
    """The strings of `Task.support` as scored trajectories."""
    prompts = {prompt.id: prompt for prompt in task.prompts()}
    return [
        given_trajectory(
            prompts[prompt_id],
            token_ids,
            "listed",
            np.full((1, len(token_ids) + 1), log_reward, np.float32),
            ("listed",),
            actions_of(token_ids, task.tool),
        )
        for prompt_id, strings in task.support().items()
        for token_ids, log_reward in strings
    ]
