"""The three roles as Ray actors: each builds its own parts in its own process, then runs the plain class of its room.

Ray calls `run` in one thread and the short questions (`status`, `stop`) in others.
"""

import os
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from buffer.config import BufferConfig
from buffer.tool import actions_of
from buffer.types import PolicySpec, Prompt, Trajectory, given_trajectory
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.metrics import Meter
from deploy.cluster.reward_client import RewardClient
from deploy.cluster.root_cause import cause_of
from deploy.config import RunConfig
from deploy.telemetry.logs import Log, process_log

if TYPE_CHECKING:
    from actors.segments import Sampled
    from rewards.task import Sample


MOST_PAUSE_S = 60.0
"""Before a process that died again and again loads once more, s."""


@dataclass(frozen=True, slots=True)
class Address:
    """What every process needs to find the others and to agree with them."""

    config: RunConfig
    spec: PolicySpec
    redis_url: str
    buffer_name: str
    task_name: str
    checkpoints: str
    """Folder of the learner's checkpoints, on a disk that its node shares with the driver's."""
    board: str
    """Name of the AdapterStore within the job. Names, not handles: a handle among its arguments would stop Ray from
    starting a dead process again once the handle's owner is gone."""


class ActorProcess:
    """One engine that samples."""

    def __init__(self, number: int, address: Address) -> None:
        from actors.rollout import RolloutActor
        from buffer.heartbeat import Heartbeats
        from buffer.server.connect import connect

        config, name = address.config, f"actor-{number}"
        self._board = AdapterStoreClient(ray.get_actor(address.board))
        self._log = process_log(address.buffer_name, name)
        self._meter = Meter(address.buffer_name, name)
        _wait_after_deaths(self._board, name, self._log)
        seed = config.seed * 1000 + number
        self._scratch = tempfile.TemporaryDirectory(prefix="tributary-adapters-")
        task = _task(address)
        self._rollout = RolloutActor(
            name=name,
            engine=_engine(address, task, Path(self._scratch.name), seed),
            prompts=task.prompts(),
            task=address.task_name,
            config=config.actors,
            adapters=self._board.latest,
            rewards=RewardClient(
                self._board, config.rewards.advanced.max_in_flight, number, config.actors.advanced.wait_limit_s
            ),
            heartbeats=Heartbeats(connect(address.redis_url), address.buffer_name),
            seed=seed,
        )
        self._log.info("ready")

    def ready(self) -> bool:
        """Returns once the engine stands."""
        return True

    def run(self) -> None:
        """RolloutActor.run. What is no error of ours, such as a dead engine, ends the process: Ray starts it anew.

        An engine that failed once would fail again, and a call made again would find the broken one.
        """
        try:
            self._rollout.run()
        except Exception as error:
            if cause_of(error) is not None:
                raise
            self._log.exception("the engine failed; this process ends, to be started anew")
            os._exit(1)

    def stop(self) -> None:
        """RolloutActor.stop"""
        self._rollout.stop()

    def leave(self) -> None:
        """Stop, wait until `run` has returned, remove the files."""
        self._rollout.stop()
        self._rollout.wait_until_stopped()
        self.close()

    def close(self) -> None:
        """Remove the adapters' files: nothing else does when Ray kills the process."""
        self._scratch.cleanup()

    def status(self) -> dict[str, Any]:
        """RolloutActor.status, exported as metrics too."""
        status = self._rollout.status()
        self._meter.actor(status)
        return status

    def sample(
        self, prompts: Sequence[Prompt], n: int, use_base_model: bool, threads: int
    ) -> "dict[str, list[Sampled]]":
        """RolloutActor.sample, on `threads` CPU threads (0: all cores), of the newest version there is now."""
        self._board.sync()
        return self._rollout.sample(prompts, n, use_base_model, threads or os.cpu_count() or 1)


class RewardProcess:
    """Scores trajectories and adds them to the buffer."""

    def __init__(self, number: int, address: Address) -> None:
        from buffer.poison_strings import PoisonStrings
        from buffer.replay import ReplayBuffer
        from buffer.server.connect import connect
        from rewards.load_scorer import load_scorer
        from rewards.worker import RewardWorker

        config, client, name = address.config, connect(address.redis_url), f"reward-{number}"
        log = process_log(address.buffer_name, name)
        self._meter = Meter(address.buffer_name, name)
        _wait_after_deaths(AdapterStoreClient(ray.get_actor(address.board)), name, log)
        _set_threads(config.rewards.threads)
        task = _task(address)
        base = None
        if task.needs_base_model:
            base = load_scorer(
                address.spec, config.rewards, config.actors.max_model_len, config.actors.advanced.kv_cache_gib
            )
        buffer = ReplayBuffer(client, config.buffer, address.buffer_name, config.rewards.weights)
        suspects = PoisonStrings(client, address.buffer_name, name)
        self._worker = RewardWorker(name, address.task_name, task, base, buffer, suspects, config.rewards)
        log.info("ready")

    def ready(self) -> bool:
        """Returns once the base model is loaded."""
        return True

    def score(self, trajectories: Sequence[Trajectory]) -> int:
        """RewardWorker.score; returns how many were new."""
        return self._worker.score(trajectories).added

    def score_samples(
        self, prompts: Sequence[Prompt], drawn: "Mapping[str, Sequence[Sampled]]"
    ) -> "dict[str, list[Sample]]":
        """RewardWorker.score_samples, of each prompt."""
        return {
            prompt.id: self._worker.score_samples(
                prompt, [s.token_ids for s in drawn[prompt.id]], [s.log_q for s in drawn[prompt.id]]
            )
            for prompt in prompts
        }

    def status(self) -> dict[str, Any]:
        """RewardWorker.status, exported as metrics too."""
        status = self._worker.status()
        self._meter.reward(status)
        return status

    def leave(self) -> None:
        """Returns once all that was sent before is scored: one call at a time."""


class LearnerProcess:
    """Draws batches and updates the adapter; one of `learner.ranks` that act as one."""

    def __init__(self, address: Address, rank: int) -> None:
        from learner.policy import LoraPolicy
        from lm.load import device_of

        self._address, self._rank = address, rank
        config = address.config.learner
        _set_threads(config.threads)
        _seed(address.config.seed)  # the same on every rank: so is the fresh adapter
        self._log = process_log(address.buffer_name, f"learner-{rank}")
        self._meter = Meter(address.buffer_name, f"learner-{rank}")
        self._policy = LoraPolicy(address.spec, device_of(config.device), config.gradient_checkpointing)

    def meeting_point(self) -> str:
        """host:port where this process, as rank 0, will listen for the others."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def ready(self, meeting_point: str) -> bool:
        """Meet the other ranks, load the newest checkpoint, publish."""
        from buffer.heartbeat import Heartbeats
        from buffer.replay import ReplayBuffer
        from buffer.server.connect import connect
        from learner.batch_source import BatchSource
        from learner.checkpoint import Checkpoints
        from learner.data_parallel import DataParallel
        from learner.learner import Learner

        address, config = self._address, self._address.config
        _set_threads(config.learner.threads)  # a thread's own setting, and Ray runs every method in another
        client, task = connect(address.redis_url), _task(address)
        weights = config.rewards.weights
        buffer = ReplayBuffer(client, _learners_buffer(config), address.buffer_name, weights)
        self._learner = Learner(
            self._policy,
            buffer,
            config.learner,
            AdapterStoreClient(ray.get_actor(address.board)).publish,
            task.prompts()[0],
            Checkpoints(Path(address.checkpoints), config.learner.advanced.keep_checkpoints),
            DataParallel(self._rank, config.learner.ranks, meeting_point, self._policy.device),
            _support(task) if self._rank == 0 else (),
            weights,
        )
        self._source = BatchSource(
            buffer,
            Heartbeats(client, address.buffer_name),
            batch_size=config.learner.batch_size // config.learner.ranks,
            fresh_fraction=config.learner.fresh_fraction,
            wait_limit_s=config.learner.advanced.wait_limit_s,
            seed=config.seed,
            rank=self._rank,
            first_draw=self._learner.step_number,
        )
        return True

    def run(self) -> int:
        """Learner.run; returns the number of steps done."""
        _set_threads(self._address.config.learner.threads)
        self._log.info("training", extra={"step": self._learner.step_number, "version": self._learner.version})
        self._learner.run(self._source)
        self._log.info("done", extra={"step": self._learner.step_number, "version": self._learner.version})
        return self._learner.step_number

    def stop(self) -> None:
        """Learner.stop"""
        self._learner.stop()

    def report(self) -> tuple[list[dict[str, Any]], str | None]:
        """New rows of figures, and the named wait if there is one."""
        rows, wait = self._learner.drain(), self._source.waiting_for()
        self._meter.learner(rows)
        return rows, wait


def _engine(address: Address, task: Any, folder: Path, seed: int) -> Any:
    """What samples: vLLM, or a stand-in for it."""
    config = address.config.actors
    if config.engine == "simulated":
        from actors.simulated import SimulatedEngine

        return SimulatedEngine(address.spec, config.advanced.simulated_rate, seed)
    from actors.engine import Engine

    return Engine(address.spec, config, folder, seed, config.gpus > 0, task.tool)


def _wait_after_deaths(board: AdapterStoreClient, name: str, log: Log) -> None:
    """A process that has been started before waits before it loads: 0, 1, 2, 4 ... s, a minute at most."""
    deaths = board.started(name)
    pause = min(2.0 ** (deaths - 2), MOST_PAUSE_S) if deaths > 1 else 0.0
    log.info("started", extra={"deaths": deaths, "pause_s": pause})
    time.sleep(pause)


def _task(address: Address) -> Any:
    from deploy.models.registry import read_tokenizer
    from rewards.task_registry import make_task

    return make_task(address.config.task, read_tokenizer(Path(address.spec.base_model)))


def _learners_buffer(config: RunConfig) -> BufferConfig:
    """Given strings are all there from the start, and none will come: nothing to wait for."""
    if config.learner.objective != "sft":
        return config.buffer
    return config.buffer.model_copy(update={"min_size_to_sample": 1, "samples_per_insert": 0.0})


def _support(task: Any) -> list[Trajectory]:
    """The strings that carry the target's mass, where the task lists them, as scored trajectories."""
    prompts = {prompt.id: prompt for prompt in task.prompts()}
    return [
        given_trajectory(
            prompts[name],
            ids,
            "listed",
            np.full((1, len(ids) + 1), log_reward, np.float32),
            ("listed",),
            actions_of(ids, task.tool),
        )
        for name, strings in task.support().items()
        for ids, log_reward in strings
    ]


def _set_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
