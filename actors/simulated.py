"""An engine without a model: random responses at a set rate, with the verbs of actors.engine.Engine.

Its policy is uniform over the allowed tokens and the stop at every place, whatever adapter it is given, and its log-
probabilities are those of that policy. What surrounds an engine can't tell it from one: versions, rewards, buffer and
learner work as they do, which makes it the means to try a cluster and to measure how far it scales.
"""

import time
from collections import deque

import numpy as np

from actors.behaviour import Behaviour
from actors.segments import Sampled
from buffer.types import AdapterFiles, AdapterVersion, IntArray, PolicySpec

STEP_S = 0.02
"""Longest pause inside of `step`, s."""
LATE_S = 0.1
"""Work of so many seconds, at the most, is made up for after a late step; what is beyond that is lost, s."""
MOST_TOKENS = 16
"""Of the vocabulary that a policy without a list of allowed tokens draws from."""


class SimulatedEngine:
    """Finishes `rate` responses a second as long as it has as many to work on."""

    def __init__(self, spec: PolicySpec, rate: float, seed: int) -> None:
        self._spec = spec
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        tokens = spec.allowed_token_ids or tuple(range(MOST_TOKENS))
        self._tokens = np.array([t for t in tokens if t != spec.stop_token_id], dtype=np.int32)
        self._open: deque[tuple[str, Behaviour]] = deque()
        self._count = 0
        self._due = time.monotonic()
        self.version: AdapterVersion | None = None
        self.can_take_version = True
        self.busy_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests not finished yet."""
        return len(self._open)

    def set_threads(self, threads: int) -> None:
        """Nothing here uses threads."""

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Take the version; the difference of a canary that nobody reads is 0."""
        self.version = version
        return 0.0

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        """Queue one response; returns its request id."""
        self._count += 1
        self._open.append((f"s{self._count}", behaviour))
        return f"s{self._count}"

    def step(self) -> list[Sampled]:
        """What is due by now; waits for STEP_S at most."""
        began = time.monotonic()
        pause = min(self._due - began, STEP_S)
        if pause > 0:
            time.sleep(pause)
        now, done = time.monotonic(), list[Sampled]()
        self._due = max(self._due, now - LATE_S)  # an engine that nobody stepped has done nothing
        while self._open and self._due <= now:
            done.append(self._response(*self._open.popleft()))
            self._due += 1.0 / self._rate
        if not self._open:
            self._due = max(self._due, now)  # nothing is made up for while there was nothing to do
        self.busy_s += time.monotonic() - began
        return done

    def _response(self, request_id: str, behaviour: Behaviour) -> Sampled:
        spec, choices = self._spec, len(self._tokens) + 1
        n = spec.max_actions
        if not behaviour.suppress_stop:
            n = min(spec.min_actions + int(self._rng.geometric(1.0 / choices)) - 1, n)
        free = np.arange(n + 1) >= spec.min_actions  # where the stop is one of the choices
        log_pterm = np.where(free, -np.log(choices), -np.inf).astype(np.float32)
        if n == spec.max_actions:
            log_pterm[-1] = 0.0
        return Sampled(
            request_id,
            self._rng.choice(self._tokens, n).astype(np.int32),
            np.where(free[:n], -np.log(choices), -np.log(choices - 1)).astype(np.float32),
            log_pterm,
            np.ones(n, dtype=np.bool_),
        )
