"""An engine without a model: random responses at a set rate.

Its policy is uniform over the allowed tokens and the stop at every position, whatever adapter it is given, and its
log-probabilities are those of that policy. Everything around it (versions, rewards, buffer, learner) works as with a
real engine, so it serves to try a cluster and to measure how far one scales.
"""

import time
from collections import deque

import numpy as np

from actors.behaviour import Behaviour
from actors.segments import Sampled
from buffer.types import AdapterFiles, AdapterVersion, IntArray, PolicySpec

MAX_STEP_S = 0.02
"""Longest sleep inside `step`, s."""
MAX_CATCH_UP_S = 0.1
"""After a late step, at most this much of the missed time is made up for, s; the rest is lost."""
MAX_TOKENS = 16
"""Size of the vocabulary of a policy without a list of allowed tokens."""


class SimulatedEngine:
    """A SamplingEngine (actors/engine_protocol.py) that finishes `rate` responses per second while it has requests."""

    def __init__(self, spec: PolicySpec, rate: float, seed: int) -> None:
        self._spec = spec
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        tokens = spec.allowed_token_ids or tuple(range(MAX_TOKENS))
        actions = np.array([t for t in tokens if t != spec.stop_token_id], dtype=np.int32)
        self._tokens = actions[spec.permits(actions)]
        self._open: deque[tuple[str, Behaviour, AdapterVersion | None]] = deque()
        self._count = 0
        self._due = time.monotonic()
        self.version: AdapterVersion | None = None
        self.can_take_version = True
        self.canary_difference_max, self.canaries_exceeded = 0.0, 0
        self.busy_s = 0.0

    @property
    def in_flight(self) -> int:
        """Unfinished requests."""
        return len(self._open)

    def set_threads(self, threads: int) -> None:
        """Does nothing: no threads are used."""

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Use a version for all later requests. Its canary is not scored, so the difference is 0."""
        self.version = version
        return 0.0

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        """Queue one response; returns its request id."""
        self._count += 1
        self._open.append((f"s{self._count}", behaviour, None if use_base_model else self.version))
        return f"s{self._count}"

    def step(self) -> list[Sampled]:
        """The responses that are due; sleeps at most MAX_STEP_S."""
        began = time.monotonic()
        pause = min(self._due - began, MAX_STEP_S)
        if pause > 0:
            time.sleep(pause)
        now, done = time.monotonic(), list[Sampled]()
        self._due = max(self._due, now - MAX_CATCH_UP_S)  # an engine does nothing between its steps
        while self._open and self._due <= now:
            done.append(self._response(*self._open.popleft()))
            self._due += 1.0 / self._rate
        if not self._open:
            self._due = max(self._due, now)  # idle time is not made up for
        self.busy_s += time.monotonic() - began
        return done

    def _response(self, request_id: str, behaviour: Behaviour, version: AdapterVersion | None) -> Sampled:
        spec, choices = self._spec, len(self._tokens) + 1
        n = spec.max_actions
        if not behaviour.suppress_stop:
            n = min(spec.min_actions + int(self._rng.geometric(1.0 / choices)) - 1, n)
        can_stop = np.arange(n + 1) >= spec.min_actions
        log_pterm = np.where(can_stop, -np.log(choices), -np.inf).astype(np.float32)
        if n == spec.max_actions:
            log_pterm[-1] = 0.0
        return Sampled(
            request_id,
            self._rng.choice(self._tokens, n).astype(np.int32),
            np.where(can_stop[:n], -np.log(choices), -np.log(choices - 1)).astype(np.float32),
            log_pterm,
            np.ones(n, dtype=np.bool_),
            version,
        )
