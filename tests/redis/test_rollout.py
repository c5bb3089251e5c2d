"""RolloutActor with a simulated engine, on a real server: the prompts it samples, and the versions it takes."""

from collections import Counter
from collections.abc import Callable
from itertools import cycle, groupby
from typing import TypeAlias

import numpy as np
import pytest
import redis

from actors.behaviour import Behaviour
from actors.config import ActorConfig
from actors.prompt_order import prompt_order
from actors.rollout import RolloutActor
from actors.simulated import SimulatedEngine
from buffer.actor_counters import ActorCounters
from buffer.config import BufferConfig
from buffer.errors import AdapterError
from buffer.heartbeat import Heartbeats
from buffer.replay import ReplayBuffer
from buffer.types import AdapterFiles, AdapterVersion, Canary, IntArray, PolicySpec, Prompt, Trajectory

Run: TypeAlias = Callable[[str, int], list[Trajectory]]

PROMPTS = [Prompt(str(k), f"prompt {k}", np.array([k], np.int32)) for k in range(1000)]
SPEC = PolicySpec("nowhere", "float32", 8, 8, (), stop_token_id=9, max_actions=2, allowed_token_ids=(1, 2))
CONFIG = ActorConfig(max_in_flight=16, push_size=8)


def version(number: int) -> tuple[AdapterVersion, AdapterFiles]:
    canary = Canary(np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), 1.0)
    return AdapterVersion(number, f"{number:064x}", number, canary), AdapterFiles(b"", "{}")


class Gate:
    """Takes every batch and calls `after_batch`."""

    def __init__(self) -> None:
        self.taken: list[Trajectory] = []
        self.after_batch: Callable[[], None]

    def send(self, trajectories: list[Trajectory]) -> None:
        self.taken += trajectories
        self.after_batch()

    def free_slots(self, timeout_s: float) -> int:
        return 1


@pytest.fixture
def run_actor(client: redis.Redis, name: str) -> Run:
    """One life of an actor: it samples at least n trajectories and ends."""

    def run(actor_name: str, n: int) -> list[Trajectory]:
        counters, gate = ActorCounters(client, name), Gate()
        life = counters.count_start(actor_name)
        actor = RolloutActor(
            actor_name,
            SimulatedEngine(SPEC, rate=1e9, seed=life),
            prompt_order(PROMPTS, 0, CONFIG.samples_per_prompt, counters.claim_turns),
            "test",
            CONFIG,
            lambda held: version(0) if held < 0 else None,
            gate,
            Heartbeats(client, name),
            seed=life,
        )
        gate.after_batch = lambda: actor.stop() if len(gate.taken) >= n else None
        actor.run()
        return gate.taken

    return run


def prompts_of(trajectories: list[Trajectory]) -> Counter[str]:
    return Counter(trajectory.prompt_id for trajectory in trajectories)


@pytest.mark.parametrize("n_actors", [1, 4, 16])
def test_actors_walk_in_step__they_do_not(run_actor: Run, n_actors: int) -> None:
    """The case actors-walk-in-step: 1,000 prompts, 8 samples each. Four actors visited 256 prompts, sixteen 64."""
    counts = Counter[str]()
    for number in range(n_actors):
        counts += prompts_of(run_actor(f"actor-{number}", 8000 // n_actors))
    assert len(counts) >= 950 and max(counts.values()) <= 16


def test_a_restarted_actor_samples_prompts_that_its_earlier_lives_did_not(run_actor: Run) -> None:
    counts = Counter[str]()
    for _ in range(5):
        counts += prompts_of(run_actor("actor-0", 1600))
    assert len(counts) >= 950


def test_an_emptied_buffer_begins_the_prompts_again(client: redis.Redis, name: str, run_actor: Run) -> None:
    first = run_actor("actor-0", 80)
    ReplayBuffer(client, BufferConfig(), name).clear()
    assert prompts_of(run_actor("actor-0", 80)) == prompts_of(first)


def test_an_actor_that_falls_behind_goes_on_and_takes_the_newest_version_once_a_slot_is_free(
    client: redis.Redis, name: str
) -> None:
    engine, gate = SimulatedEngine(SPEC, rate=1e9, seed=0), Gate()
    newest = 0

    def adapters(held: int) -> tuple[AdapterVersion, AdapterFiles] | None:
        return version(newest) if newest > held else None

    actor = RolloutActor(
        "actor-0", engine, cycle(PROMPTS), "test", CONFIG, adapters, gate, Heartbeats(client, name), seed=0
    )

    def after_batch() -> None:
        nonlocal newest
        newest = 100  # requests hold all slots while the learner publishes a hundred versions
        engine.can_take_version = len(gate.taken) >= 800
        if gate.taken[-1].policy_version == 100 or len(gate.taken) > 1_000_000:
            actor.stop()

    gate.after_batch = after_batch
    actor.run()
    assert [version for version, _ in groupby(t.policy_version for t in gate.taken)] == [0, 100]
    assert gate.taken[799].policy_version == 0
    figures = actor.status()
    assert (figures["version"], figures["versions_taken"], figures["versions_skipped"]) == (100, 2, 99)


def test_an_evaluation_between_two_loops_loses_no_string(client: redis.Redis, name: str) -> None:
    engine, gate = SimulatedEngine(SPEC, rate=1e9, seed=0), Gate()
    actor = RolloutActor(
        "actor-0",
        engine,
        iter(PROMPTS),
        "test",
        CONFIG,
        lambda held: version(0) if held < 0 else None,
        gate,
        Heartbeats(client, name),
        seed=0,
    )
    for n in (8, 200):
        gate.after_batch = lambda n=n: actor.stop() if len(gate.taken) >= n else None  # type: ignore[misc]
        actor.run()
        assert len(actor.sample(PROMPTS[:1], 3, use_base_model=False, threads=1)["0"]) == 3
        actor.resume()
    assert [t.prompt_id for t in gate.taken] == [str(k) for k in range(len(gate.taken))]


def test_a_response_of_the_base_model_is_never_stamped_with_a_version(client: redis.Redis, name: str) -> None:
    class BaseModelEngine(SimulatedEngine):
        def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
            return super().add(prompt_token_ids, behaviour, use_base_model=True)

    engine = BaseModelEngine(SPEC, rate=1e9, seed=0)
    actor = RolloutActor(
        "actor-0", engine, cycle(PROMPTS), "test", CONFIG, lambda held: version(0), Gate(), Heartbeats(client, name), 0
    )
    with pytest.raises(AdapterError, match="actor-0: the base model sampled a response"):
        actor.run()


def test_a_wrong_adapter_ends_the_actor(client: redis.Redis, name: str) -> None:
    class WrongEngine(SimulatedEngine):
        def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
            raise AdapterError("the canary differs")

    engine = WrongEngine(SPEC, rate=1e9, seed=0)
    actor = RolloutActor(
        "actor-0", engine, cycle(PROMPTS), "test", CONFIG, lambda held: version(0), Gate(), Heartbeats(client, name), 0
    )
    with pytest.raises(AdapterError, match="canary"):
        actor.run()
