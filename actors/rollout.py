"""The rollout actor: sample from the newest policy at hand, hand trajectories on, never stop.

consumes   prompts, adapter versions (AdapterSource)
produces   unscored trajectories -> RewardGate
waits for  the first adapter; room with the reward workers
unblocked by  Learner publishing; RewardWorker.score returning
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from actors.behaviour import Behaviour, BehaviourMix
from actors.config import ActorConfig
from actors.engine import Engine
from actors.segments import Sampled
from buffer.errors import AdapterError
from buffer.heartbeat import LIFETIME_S, Heartbeats
from buffer.named_wait import NamedWait
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory

AdapterSource = Callable[[int], tuple[int, tuple[AdapterVersion, AdapterFiles] | None]]
"""known version (-1: none) -> (newest number, its version and files if it is newer than the known one)."""


class RewardGate(Protocol):
    """The way to the reward workers."""

    def send(self, trajectories: list[Trajectory]) -> None:
        """Hand unscored trajectories on, without waiting for their scores."""

    def room(self, timeout_s: float) -> int:
        """How often `send` may be called now, after waiting up to `timeout_s` for one. Raises what a worker raised."""


POLL_S = 0.1
REFRESH_S = 0.02
"""Between two looks for a newer adapter, s: some 0.2 ms each."""
ON_POLICY = Behaviour("on_policy", 1.0, suppress_stop=False)


class RolloutActor:
    """One engine and the loop around it."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        prompts: Sequence[Prompt],
        task: str,
        config: ActorConfig,
        adapters: AdapterSource,
        rewards: RewardGate,
        heartbeats: Heartbeats,
        seed: int,
    ) -> None:
        self._name = name
        self._engine = engine
        self._prompts = _in_turns(prompts, config.samples_per_prompt)
        self._task = task
        self._config = config
        self._adapters = adapters
        self._rewards = rewards
        self._heartbeats = heartbeats
        self._mix = BehaviourMix(config.behaviours, seed)
        self._stopping = threading.Event()
        self._running = threading.Lock()
        self._open: dict[str, tuple[Prompt, Behaviour, AdapterVersion, float]] = {}
        self._last_beat = self._last_refresh = -math.inf
        self._wait: NamedWait | None = None
        self._figures = {"trajectories": 0, "tokens": 0, "versions_taken": 0, "canary_difference_max": 0.0}
        self._began, self._busy_before_s = time.monotonic(), engine.busy_s

    def run(self) -> None:
        """Sample until `stop`. Raises AdapterError when the served version is wrong or too old."""
        with self._running:  # a second call waits: two loops must never share an engine
            self._run()

    def _run(self) -> None:
        self._engine.set_threads(self._config.threads)  # a thread's own setting, so in the thread that runs
        self._began, self._busy_before_s = time.monotonic(), self._engine.busy_s
        self._wait_for_first_adapter()
        finished: list[Trajectory] = []
        while not self._stopping.is_set():
            self._beat()
            self._top_up()  # first: the engine steps once to read a version's canary, and no place should be empty then
            if time.monotonic() - self._last_refresh > REFRESH_S:
                self._refresh()
            finished += [self._trajectory(sampled) for sampled in self._engine.step()]
            if len(finished) >= self._config.push_size:
                self._wait_for_room()
                self._rewards.send(finished)
                self._count(finished)
                finished = []

    def stop(self) -> None:
        """Return from `run` after the step under way."""
        self._stopping.set()

    def wait_until_stopped(self) -> None:
        """Return once `run` has."""
        with self._running:
            pass

    def status(self) -> dict[str, Any]:
        """Figures since `run` began: counts, tokens_per_s, seconds in the engine, version served, largest canary
        difference, the wait."""
        version, wait = self._engine.version, self._wait
        seconds = max(time.monotonic() - self._began, 1e-9)
        return self._figures | {
            "name": self._name,
            "seconds": seconds,
            "engine_s": self._engine.busy_s - self._busy_before_s,
            "tokens_per_s": self._figures["tokens"] / seconds,
            "version": version.number if version else -1,
            "waiting_for": wait.sentence() if wait else None,
        }

    def sample(self, prompts: Sequence[Prompt], n: int, use_base_model: bool, threads: int) -> dict[str, list[Sampled]]:
        """n on-policy responses of each prompt, of the newest version (or of the base model). Not while `run` runs."""
        self._engine.set_threads(threads)
        while self._engine.in_flight:  # what `run` left behind holds adapter slots
            self._engine.step()
        self._open.clear()
        if not use_base_model:
            self._refresh()
        return sample(self._engine, prompts, n, use_base_model)

    def _top_up(self) -> None:
        version = self._engine.version
        assert version is not None
        while len(self._open) < self._config.max_in_flight:
            prompt, behaviour = next(self._prompts), self._mix.next()
            request_id = self._engine.add(prompt.token_ids, behaviour)
            self._open[request_id] = prompt, behaviour, version, time.time()

    def _refresh(self) -> None:
        """Take the newest adapter, if there is a newer one and a free slot, without waiting for any request."""
        self._last_refresh = time.monotonic()
        served = self._engine.version
        known = served.number if served else -1
        if self._engine.can_take_version:
            newest, fetched = self._adapters(known)
            if fetched:
                difference = self._engine.serve(*fetched)
                known = fetched[0].number
                self._figures["versions_taken"] += 1
                self._figures["canary_difference_max"] = max(self._figures["canary_difference_max"], difference)
        else:
            newest, _ = self._adapters(2**62)  # only the number: nothing is newer than this
        if newest - known > self._config.advanced.max_staleness:
            raise AdapterError(
                f"actor {self._name} serves version {known} and the newest is {newest}: {newest - known} behind, "
                f"more than actors.advanced.max_staleness = {self._config.advanced.max_staleness}. "
                "Raise learner.publish_every or actors.advanced.max_staleness, or give actors more speed."
            )

    def _wait_for_first_adapter(self) -> None:
        self._wait = NamedWait(
            f"actor {self._name} waits for the first adapter",
            self._config.advanced.wait_limit_s,
            lambda: "the learner has published none",
        )
        while not self._stopping.is_set() and self._engine.version is None:
            self._beat()
            self._refresh()
            self._wait.check()
            if self._engine.version is None:
                self._stopping.wait(POLL_S)
        self._wait = None

    def _wait_for_room(self) -> None:
        """Backpressure: go on sampling only when reward workers keep up."""
        if self._rewards.room(0.0) > 0:
            return
        self._wait = NamedWait(
            f"actor {self._name} waits for reward workers",
            self._config.advanced.wait_limit_s,
            lambda: "as many batches under way as allowed",
        )
        while not self._stopping.is_set() and self._rewards.room(POLL_S) <= 0:
            self._beat()
            self._wait.check()
        self._wait = None

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat > LIFETIME_S / 4:
            self._heartbeats.beat("actor", self._name)
            self._last_beat = time.monotonic()

    def _trajectory(self, sampled: Sampled) -> Trajectory:
        prompt, behaviour, version, began = self._open.pop(sampled.request_id)
        now = time.time()
        return Trajectory(
            prompt_id=prompt.id,
            prompt_token_ids=prompt.token_ids,
            token_ids=sampled.token_ids,
            is_action=sampled.is_action,
            log_pf=sampled.log_pf,
            log_pterm=sampled.log_pterm,
            policy_version=version.number,
            adapter_digest=version.digest,
            behaviour=behaviour.name,
            task=self._task,
            sampled_at=now,
            sampling_s=now - began,
        )

    def _count(self, trajectories: Sequence[Trajectory]) -> None:
        self._figures["trajectories"] += len(trajectories)
        # a stop that was chosen is a sampled token too
        self._figures["tokens"] += sum(int(t.is_action.sum()) + bool(t.log_pterm[-1]) for t in trajectories)


def sample(engine: Engine, prompts: Sequence[Prompt], n: int, use_base_model: bool) -> dict[str, list[Sampled]]:
    """Prompt id -> n on-policy responses, in the order they finish. The engine's other requests are dropped."""
    asked = {engine.add(prompt.token_ids, ON_POLICY, use_base_model): prompt.id for prompt in prompts for _ in range(n)}
    responses: dict[str, list[Sampled]] = {prompt.id: [] for prompt in prompts}
    left = len(asked)
    while left:
        for sampled in engine.step():
            if sampled.request_id in asked:
                responses[asked[sampled.request_id]].append(sampled)
                left -= 1
    return responses


def _in_turns(prompts: Sequence[Prompt], times: int) -> Iterator[Prompt]:
    """Each prompt `times` times, then the next, for ever."""
    while True:
        for prompt in prompts:
            for _ in range(times):
                yield prompt
