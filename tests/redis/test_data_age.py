"""Fresh rows are fresh: the age of the data at the learner, for actors, rewards and learner of different speeds.

The actor, its engine and the buffer are real; their clock and the times of rewards and learner steps are simulated, so
that the ages depend on the ratios of speeds alone.
"""

import heapq
from collections.abc import Callable
from dataclasses import replace
from itertools import count, cycle

import numpy as np
import pytest
import redis

from actors import rollout, simulated
from actors.config import ActorConfig
from actors.rollout import RolloutActor
from actors.simulated import SimulatedEngine
from buffer.drawn_rows import Drawn
from buffer.heartbeat import Heartbeats
from buffer.replay import ReplayBuffer
from buffer.types import Trajectory
from deploy.cluster.learner_process import fresh_window
from deploy.cluster.reward_client import BATCHES_PER_WORKER
from deploy.config import parse_config
from tests.redis.test_rollout import PROMPTS, SPEC, version

CONFIG = parse_config({}, "the default recipe")
STEP_S = 1.0
WARM_UP, STEPS = 15, 50


class World:
    """A clock whose sleeps let events happen; a reward worker and a learner on it."""

    def __init__(self, buffer: ReplayBuffer, rewards_per_step: float) -> None:
        self._buffer = buffer
        self._rewards_per_step = rewards_per_step
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._batches: list[list[Trajectory]] = []
        self.version = 0
        self.ages: list[float] = []
        self.fresh_rows: list[int] = []
        self._rng = np.random.default_rng(0)
        self._after(0.0, self._step)

    def monotonic(self) -> float:
        return self._now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        end = self._now + max(seconds, 1e-4)
        while self._events and self._events[0][0] <= end:
            self._now, _, event = heapq.heappop(self._events)
            event()
        self._now = end

    def send(self, trajectories: list[Trajectory]) -> None:
        self._batches.append(trajectories)
        if len(self._batches) == 1:
            self._score_first()

    def free_slots(self, timeout_s: float) -> int:
        if len(self._batches) >= BATCHES_PER_WORKER:
            self.sleep(timeout_s)
        return BATCHES_PER_WORKER - len(self._batches)

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    def _score_first(self) -> None:
        self._after(len(self._batches[0]) / self._rewards_per_step * STEP_S, self._add)

    def _add(self) -> None:
        zeros = [np.zeros((1, len(t.token_ids) + 1), np.float32) for t in self._batches[0]]
        self._buffer.add(
            [replace(t, log_reward=z, reward_terms=("r",)) for t, z in zip(self._batches.pop(0), zeros, strict=True)]
        )
        if self._batches:
            self._score_first()

    def _draw(self) -> list[Drawn]:
        fresh = round(CONFIG.learner.batch_size * CONFIG.learner.fresh_fraction)
        return self._buffer.draw(fresh, CONFIG.learner.batch_size - fresh, self._rng, fresh_window(CONFIG))

    def _step(self) -> None:
        """Draw as BatchSource does; publish at the step's end."""
        if not (rows := self._draw()):
            self._after(0.05, self._step)
            return
        ages = [self.version - row.policy_version for row in rows if row.fresh]
        self.fresh_rows.append(len(ages))
        self.ages += [float(np.mean(ages))] if ages else []
        self._after(STEP_S, self._publish)

    def _publish(self) -> None:
        self.version += 1
        self._step()


def run(client: redis.Redis, name: str, patch: pytest.MonkeyPatch, sampled: float, scored: float) -> World:
    """A run whose actor and reward worker handle so many times the fresh rows that a learner step takes."""
    fresh = CONFIG.learner.batch_size * CONFIG.learner.fresh_fraction
    world = World(ReplayBuffer(client, CONFIG.buffer, name), scored * fresh)
    patch.setattr(simulated, "time", world)
    patch.setattr(rollout, "time", world)
    actor = RolloutActor(
        "actor-0",
        SimulatedEngine(replace(SPEC, max_actions=20), sampled * fresh / STEP_S, seed=0),
        cycle(PROMPTS),
        "test",
        ActorConfig(),
        lambda held: version(world.version) if world.version > held else None,
        world,
        Heartbeats(client, name),
        seed=0,
    )
    patch.setattr(actor, "_beat", lambda: actor.stop() if world.version >= STEPS else None)
    actor.run()
    return world


@pytest.mark.parametrize(
    ("sampled", "scored", "versions"),
    [(1.05, 100.0, 2.6), (1.5, 100.0, 2.0), (2.0, 100.0, 2.0), (4.0, 100.0, 2.0), (4.0, 2.0, 2.5), (4.0, 1.0, 4.5), (4.0, 0.5, 8.5)],
)  # fmt: skip
def test_fresh_rows_are_young_whichever_part_is_the_slowest(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch, sampled: float, scored: float, versions: float
) -> None:
    world = run(client, name, monkeypatch, sampled, scored)
    assert np.mean(world.ages[WARM_UP:]) <= versions
    half = CONFIG.learner.batch_size * CONFIG.learner.fresh_fraction
    assert np.mean(world.fresh_rows[WARM_UP:]) == pytest.approx(half * min(sampled, scored, 1.0), rel=0.1)
