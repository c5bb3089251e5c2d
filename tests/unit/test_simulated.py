"""The simulated engine keeps its rate, and its log-probabilities are those of the policy it samples from."""

from collections import Counter
from math import exp, log, sqrt

import numpy as np
import pytest

from actors.behaviour import Behaviour
from actors.simulated import MAX_CATCH_UP_S, SimulatedEngine
from buffer.types import PolicySpec

PROMPT = np.zeros(1, np.int32)
ON_POLICY = Behaviour("on_policy", 1.0, suppress_stop=False)


def spec(min_actions: int = 0) -> PolicySpec:
    return PolicySpec(
        "nowhere",
        "float32",
        8,
        8,
        (),
        stop_token_id=9,
        max_actions=3,
        min_actions=min_actions,
        allowed_token_ids=(1, 2),
    )


@pytest.mark.parametrize("min_actions", [0, 2])
def test_strings_are_drawn_as_often_as_their_log_q_says(min_actions: int) -> None:
    engine, n = SimulatedEngine(spec(min_actions), rate=1e9, seed=1), 20_000
    for _ in range(n):
        engine.add(PROMPT, ON_POLICY)
    drawn, log_q = Counter[tuple[int, ...]](), dict[tuple[int, ...], float]()
    while engine.in_flight:
        for sampled in engine.step():
            drawn[tuple(sampled.token_ids)] += 1
            log_q[tuple(sampled.token_ids)] = sampled.log_q
    assert sum(map(exp, log_q.values())) == pytest.approx(1.0)
    for string, count in drawn.items():
        p = exp(log_q[string])
        assert abs(count / n - p) < 5 * sqrt(p * (1 - p) / n)


def test_it_finishes_responses_at_the_set_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("actors.simulated.time.monotonic", lambda: now)
    monkeypatch.setattr("actors.simulated.time.sleep", lambda pause: None)
    engine, done = SimulatedEngine(spec(), rate=50.0, seed=0), 0
    for step in range(1000):
        while engine.in_flight < 8:
            engine.add(PROMPT, ON_POLICY)
        done += len(engine.step())
        now = 100.0 + 0.01 * (step + 1)
    assert done == pytest.approx(500, abs=8)


def test_time_between_steps_is_lost_beyond_the_catch_up_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("actors.simulated.time.monotonic", lambda: now)
    monkeypatch.setattr("actors.simulated.time.sleep", lambda pause: None)
    engine = SimulatedEngine(spec(), rate=50.0, seed=0)
    for _ in range(100):
        engine.add(PROMPT, ON_POLICY)
    now = 101.0
    assert len(engine.step()) == pytest.approx(50 * MAX_CATCH_UP_S, abs=1)


def test_with_the_stop_suppressed_it_writes_max_actions() -> None:
    engine = SimulatedEngine(spec(), rate=1e9, seed=2)
    engine.add(PROMPT, Behaviour("suppressed", 1.0, suppress_stop=True))
    [sampled] = engine.step()
    assert len(sampled.token_ids) == 3 and sampled.log_pterm[-1] == 0.0
    assert sampled.log_q == pytest.approx(-3 * log(3))
