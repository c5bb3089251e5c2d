"""The rollout actor: samples from the newest adapter it holds and sends trajectories to reward workers, without pause.

consumes   prompts (prompt_order), adapter versions (AdapterSource)
produces   unscored trajectories -> RewardGate
waits for  the first adapter; a free slot at the reward workers
unblocked by  Learner publishing; RewardWorker.score returning
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from actors.behaviour import Behaviour, BehaviourMix
from actors.config import ActorConfig
from actors.engine_protocol import SamplingEngine
from actors.segments import Sampled
from buffer.errors import AdapterError
from buffer.heartbeat import LIFETIME_S, Heartbeats
from buffer.named_wait import NamedWait
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory

AdapterSource = Callable[[int], tuple[AdapterVersion, AdapterFiles] | None]
"""Served version (-1: none) -> the newest version and its files; None if it is not newer than the served one."""


class RewardGate(Protocol):
    """The actor's connection to the reward workers, with a bounded number of batches in flight."""

    def send(self, trajectories: list[Trajectory]) -> None:
        """Send unscored trajectories; does not wait for their scores."""

    def free_slots(self, timeout_s: float) -> int:
        """Free slots in the in-flight window; waits up to `timeout_s` for one. Raises what a worker raised."""


POLL_S = 0.1
REFRESH_S = 0.02
"""Pause between two checks for a newer adapter, s; a check takes about 0.2 ms."""
ON_POLICY = Behaviour("on_policy", 1.0, suppress_stop=False)


class RolloutActor:
    """One engine and the loop around it."""

    def __init__(
        self,
        name: str,
        engine: SamplingEngine,
        prompts: Iterator[Prompt],
        task: str,
        config: ActorConfig,
        adapters: AdapterSource,
        rewards: RewardGate,
        heartbeats: Heartbeats,
        seed: int,
    ) -> None:
        self._name = name
        self._engine = engine
        self._prompts = prompts
        self._task = task
        self._config = config
        self._adapters = adapters
        self._rewards = rewards
        self._heartbeats = heartbeats
        self._mix = BehaviourMix(config.behaviours, seed)
        self._stopping = threading.Event()
        self._running = threading.Lock()
        self._open: dict[str, tuple[Prompt, Behaviour, float]] = {}
        self._finished: list[Trajectory] = []
        """Not sent yet. When a loop stops they stay for the next one: those in flight are longer than most."""
        self._last_beat = self._last_refresh = -math.inf
        self._step_since: float | None = None
        self._wait: NamedWait | None = None
        self._figures: dict[str, float] = {
            "trajectories": 0,
            "tokens": 0,
            "versions_taken": 0,
            "versions_skipped": 0,
        }
        self._began, self._busy_before_s = time.monotonic(), engine.busy_s
        self._earlier_s = self._earlier_busy_s = 0.0
        """Time and engine time of earlier loops, s: the loop may stop for an evaluation and go on."""

    def run(self) -> None:
        """Sample until `stop`. Raises AdapterError when the engine serves wrong weights."""
        with self._running:  # a second call waits: two loops must never share an engine
            try:
                self._run()
            finally:
                self._earlier_s = time.monotonic() - self._began
                self._earlier_busy_s = self._engine.busy_s - self._busy_before_s

    def _run(self) -> None:
        self._engine.set_threads(self._config.threads)
        self._began = time.monotonic() - self._earlier_s
        self._busy_before_s = self._engine.busy_s - self._earlier_busy_s
        self._wait_for_first_adapter()
        while not self._stopping.is_set():
            self._beat()
            self._top_up()  # first: the engine steps once to score a version's canary, and its batch should be full
            if time.monotonic() - self._last_refresh > REFRESH_S:
                self._refresh()
            with self._in_engine():
                sampled = self._engine.step()
            self._finished += [self._trajectory(response) for response in sampled]
            if len(self._finished) >= self._config.push_size:
                self._wait_for_slot()
                self._rewards.send(self._finished)
                self._count(self._finished)
                self._finished = []

    def stop(self) -> None:
        """Make `run` return after its current step."""
        self._stopping.set()

    def resume(self) -> None:
        """Forget a `stop` that `run` has obeyed, so that it can be called again."""
        self._stopping.clear()

    def wait_until_stopped(self) -> None:
        """Block until `run` has returned."""
        with self._running:
            pass

    def status(self) -> dict[str, Any]:
        """Figures since `run` began: counts, tokens/s, seconds in the engine, served version, versions skipped between
        two served ones, the named wait if there is one, and the seconds that its engine has been in its present step
        or in taking a version. Since the engine's start: largest canary difference [nats] and canaries beyond their
        tolerance."""
        version, wait, runs = self._engine.version, self._wait, self._running.locked()
        seconds = max(time.monotonic() - self._began if runs else self._earlier_s, 1e-9)
        busy_s = self._engine.busy_s - self._busy_before_s if runs else self._earlier_busy_s
        return self._figures | {
            "name": self._name,
            "seconds": seconds,
            "engine_s": busy_s,
            "tokens_per_s": self._figures["tokens"] / seconds,
            "version": version.number if version else -1,
            "canary_difference_max": self._engine.canary_difference_max,
            "canaries_exceeded": self._engine.canaries_exceeded,
            "waiting_for": wait.sentence() if wait else None,
            "engine_step_s": time.monotonic() - since if (since := self._step_since) else 0.0,
        }

    def sample(self, prompts: Sequence[Prompt], n: int, use_base_model: bool, threads: int) -> dict[str, list[Sampled]]:
        """n on-policy responses to each prompt, from the newest version or the base model. Waits until `run` has
        returned; after `resume` it may begin again."""
        with self._running:
            self._engine.set_threads(threads)
            while self._engine.in_flight:  # requests that `run` left unfinished hold adapter slots
                sampled = self._engine.step()
                self._finished += [self._trajectory(one) for one in sampled if one.request_id in self._open]
            if not use_base_model:
                self._refresh()
            return sample(self._engine, prompts, n, use_base_model)

    def _top_up(self) -> None:
        while len(self._open) < self._config.max_in_flight:
            prompt, behaviour = next(self._prompts), self._mix.next()
            request_id = self._engine.add(prompt.token_ids, behaviour)
            self._open[request_id] = prompt, behaviour, time.time()

    def _refresh(self) -> None:
        """Serve the newest adapter if it is newer and a slot is free; never waits for a request to finish."""
        self._last_refresh = time.monotonic()
        if not self._engine.can_take_version:
            return
        served = self._engine.version
        fetched = self._adapters(served.number if served else -1)
        if fetched is None:
            return
        with self._in_engine():
            self._engine.serve(*fetched)
        self._figures["versions_taken"] += 1
        self._figures["versions_skipped"] += fetched[0].number - served.number - 1 if served else 0

    @contextmanager
    def _in_engine(self) -> Iterator[None]:
        """While the engine computes, for `status`: it may hang."""
        self._step_since = time.monotonic()
        try:
            yield
        finally:
            self._step_since = None

    def _wait_for_first_adapter(self) -> None:
        self._wait = NamedWait(
            f"{self._name} waits for the first adapter",
            self._config.advanced.wait_limit_s,
            lambda: "the learner has not published one yet",
        )
        while not self._stopping.is_set() and self._engine.version is None:
            self._beat()
            self._refresh()
            self._wait.check()
            if self._engine.version is None:
                self._stopping.wait(POLL_S)
        self._wait = None

    def _wait_for_slot(self) -> None:
        """Backpressure: block until the reward workers can take one more batch."""
        if self._rewards.free_slots(0.0) > 0:
            return
        self._wait = NamedWait(
            f"{self._name} waits for reward workers",
            self._config.advanced.wait_limit_s,
            lambda: "each has a batch to score and the next one",
        )
        while not self._stopping.is_set() and self._rewards.free_slots(POLL_S) <= 0:
            self._beat()
            self._wait.check()
        self._wait = None

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat > LIFETIME_S / 4:
            self._heartbeats.beat("actor", self._name)
            self._last_beat = time.monotonic()

    def _trajectory(self, sampled: Sampled) -> Trajectory:
        prompt, behaviour, requested_at = self._open.pop(sampled.request_id)
        sampled_at, version = time.time(), sampled.version
        if version is None:
            raise AdapterError(
                f"{self._name}: the base model sampled a response that an adapter version was to sample. It can't be "
                "stamped with a version. Continue the run with --resume, and report this."
            )
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
            sampled_at=sampled_at,
            sampling_s=sampled_at - requested_at,
        )

    def _count(self, trajectories: Sequence[Trajectory]) -> None:
        self._figures["trajectories"] += len(trajectories)
        # a stop that was chosen is a sampled token too
        self._figures["tokens"] += sum(int(t.is_action.sum()) + bool(t.log_pterm[-1]) for t in trajectories)


def sample(
    engine: SamplingEngine, prompts: Sequence[Prompt], n: int, use_base_model: bool, behaviour: Behaviour = ON_POLICY
) -> dict[str, list[Sampled]]:
    """Prompt id -> n responses, on-policy unless a `behaviour` is given, in the order they finish.

    Other responses that the engine finishes are dropped.
    """
    prompt_ids = {
        engine.add(prompt.token_ids, behaviour, use_base_model): prompt.id for prompt in prompts for _ in range(n)
    }
    responses: dict[str, list[Sampled]] = {prompt.id: [] for prompt in prompts}
    unfinished = len(prompt_ids)
    while unfinished:
        for sampled in engine.step():
            if sampled.request_id in prompt_ids:
                responses[prompt_ids[sampled.request_id]].append(sampled)
                unfinished -= 1
    return responses
