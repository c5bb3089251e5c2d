"""A run in one thread: the real actor, engine, learner and buffer; each push is one learner step and one version."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import numpy as np
import redis
import torch

from actors.canary import CanaryCheck, SampleCheck
from actors.engine import Engine
from actors.rollout import RolloutActor
from actors.served_versions import ServedVersions
from buffer.config import BufferConfig
from buffer.drawn_rows import Drawn
from buffer.errors import TributaryError
from buffer.heartbeat import Heartbeats
from buffer.replay import ReplayBuffer
from buffer.store.item_store import Handle
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory
from deploy.driver.preflight import Checked
from learner.checkpoint import Checkpoints
from learner.learner import Learner
from learner.policy import LoraPolicy

NOWHERE = Handle(0, 0)
"""No item of a buffer has generation 0."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all runs of a process share."""

    checked: Checked
    engine: Engine
    client: redis.Redis
    folder: Path
    versions: int
    """Versions after its first one that a run publishes."""
    runs: list["LockstepRun"] = field(default_factory=list)
    """The runs so far."""

    def policy(self, **changes: object) -> LoraPolicy:
        """A policy with a fresh adapter; `changes` replace fields of its PolicySpec."""
        return LoraPolicy(replace(self.checked.spec, **changes), torch.device("cpu"))  # type: ignore[arg-type]

    def play(self, policy: LoraPolicy | None = None, checkpoints: Checkpoints | None = None) -> "LockstepRun":
        """A run from its start to its end. Raises what a part of it raises."""
        run = LockstepRun(self, policy or self.policy(), checkpoints)
        run.play(self.versions)
        return run

    def play_healthy(self, checkpoints: Checkpoints | None = None) -> "LockstepRun":
        """A run that has to reach its end. AssertionError where it does not."""
        try:
            return self.play(checkpoints=checkpoints)
        except TributaryError as error:
            raise AssertionError("a run without a fault failed") from error


class LockstepRun:
    """It is the reward gate of its own actor: a push is scored, learned from, and followed by a new version."""

    def __init__(self, parts: Parts, policy: LoraPolicy, checkpoints: Checkpoints | None) -> None:
        """Publish the first version."""
        config, name = parts.checked.config, f"run-{uuid4().hex}"
        reset(parts.engine, parts.folder / name)
        parts.runs.append(self)
        self._engine = parts.engine
        self._offered: list[int] = []
        self._last = 0
        self.newest: tuple[AdapterVersion, AdapterFiles]
        self.learner = Learner(
            policy,
            ReplayBuffer(parts.client, BufferConfig(), name),
            config.learner,
            self._publish,
            parts.checked.prompts[0],
            checkpoints,
        )
        self._actor = RolloutActor(
            "actor-0",
            parts.engine,
            repeated(parts.checked.prompts, config.actors.samples_per_prompt),
            config.task.name,
            config.actors,
            self._adapters,
            self,
            Heartbeats(parts.client, name),
            seed=0,
        )

    @property
    def used(self) -> list[int]:
        """Numbers of the versions that finished a response."""
        served = self._engine._versions._versions
        unused = [number for number, one in served.items() if not one.compared and not one.first_segments]
        newest = self._engine.version
        accepted = [number for number in self._offered if newest is not None and number <= newest.number]
        return [number for number in accepted if number not in unused]

    def play(self, versions: int) -> None:
        """Sample and learn until so many more versions are published and sampled from. Raises what a part raises."""
        self._last = self.newest[0].number + versions
        self._actor._stopping.clear()
        with patch("actors.rollout.REFRESH_S", 0.0):  # versions are taken in the same order on a slow machine
            self._actor.run()

    def send(self, trajectories: list[Trajectory]) -> None:
        """Score, learn, publish; stop once the last version has sampled."""
        if trajectories[-1].policy_version >= self._last:
            self._actor.stop()
        elif self.newest[0].number < self._last:
            scored = [with_reward(trajectory) for trajectory in trajectories]
            self.learner.step([Drawn(NOWHERE, t, True, t.policy_version, t.behaviour) for t in scored])
            self.learner._publisher.publish(self.learner.step_number, max(scored, key=lambda t: len(t.token_ids)))

    def free_slots(self, timeout_s: float) -> int:
        """Always one."""
        return 1

    def _publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        self.newest = version, files

    def _adapters(self, held: int) -> tuple[AdapterVersion, AdapterFiles] | None:
        """An actors.rollout.AdapterSource."""
        if self.newest[0].number <= held:
            return None
        self._offered.append(self.newest[0].number)
        return self.newest


def reset(engine: Engine, folder: Path) -> None:
    """An engine as after its start: no requests, no versions, new checks. `folder` receives its adapter files."""
    for segment_id in list(engine._open):
        engine._engine._call(engine._engine._engine.abort_request, [segment_id])
    engine._open.clear()
    engine._finished = []
    for served in list(engine._versions._versions.values()):
        engine._versions.remove(served)
    engine._versions = ServedVersions(folder, engine._engine.remove_lora)
    engine._canary_check, engine._sample_check = CanaryCheck(), SampleCheck()


def repeated(prompts: Sequence[Prompt], n: int) -> Iterator[Prompt]:
    """Each prompt n times, again and again."""
    return (prompt for prompt in itertools.cycle(prompts) for _ in range(n))


def with_reward(trajectory: Trajectory) -> Trajectory:
    """Log R of each prefix: a fixed number of each token, summed, nats."""
    per_token = np.random.default_rng(0).normal(scale=0.5, size=10_000)
    log_r = np.append(0.0, per_token[trajectory.token_ids].cumsum()).astype(np.float32)
    return replace(trajectory, log_reward=log_r[None], reward_terms=("table",))
