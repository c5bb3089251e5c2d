"""The live check: does the policy's own estimate of log Z leave room for the strings that were seen?"""

import math

import numpy as np
import pytest

from buffer.drawn_rows import Drawn
from buffer.types import Prompt, given_trajectory
from learner import known_mass
from learner.known_mass import MIN_DRAWS, KnownMass


def row(token: int, fresh: bool, prompt: str = "x", behaviour: str = "on_policy") -> Drawn:
    x = Prompt(prompt, prompt, np.array([1], np.int32))
    trajectory = given_trajectory(x, np.array([token], np.int32), behaviour, np.zeros((1, 2), np.float32), ("r",))
    return Drawn((0, 0), trajectory, fresh, policy_version=0, behaviour=behaviour)  # type: ignore[arg-type]


def test_a_collapsed_policy_leaves_out_a_known_demonstration() -> None:
    mass = KnownMass()
    rows = [row(0, fresh=True) for _ in range(MIN_DRAWS)] + [row(1, fresh=False, behaviour="demonstration")]
    log_r = [-14.0] * MIN_DRAWS + [-6.0]
    u = [-13.9] * MIN_DRAWS + [32.0]
    assert mass.add(rows, log_r, u, 1.0) > 0.99


def test_a_policy_that_is_the_posterior_leaves_nothing_out() -> None:
    rng, mass, log_r = np.random.default_rng(0), KnownMass(), np.random.default_rng(1).normal(size=40)
    log_z = float(np.logaddexp.reduce(log_r))
    p = np.exp(log_r - log_z)
    for _ in range(20):
        tokens = rng.choice(40, 32, p=p).tolist()
        missing = mass.add([row(t, fresh=True) for t in tokens], log_r[tokens].tolist(), [log_z] * 32, 1.0)
    assert missing < 1e-9


def test_it_is_not_known_before_some_draws_and_replayed_rows_are_no_draws() -> None:
    mass = KnownMass()
    assert math.isnan(mass.add([row(0, True)] * (MIN_DRAWS - 1), [0.0] * (MIN_DRAWS - 1), [0.0] * (MIN_DRAWS - 1), 1.0))
    assert math.isnan(mass.add([row(0, fresh=False)] * 9, [0.0] * 9, [0.0] * 9, 1.0))
    assert mass.add([row(0, True)], [0.0], [0.0], 1.0) == 0.0


def test_a_string_seen_twice_counts_once() -> None:
    mass = KnownMass()
    for _ in range(5):
        missing = mass.add([row(0, True)] * MIN_DRAWS, [0.0] * MIN_DRAWS, [0.0] * MIN_DRAWS, 1.0)
    assert missing == 0.0


def test_memory_is_bounded_in_strings_and_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_mass, "MAX_PROMPTS", 3)
    monkeypatch.setattr(known_mass, "MAX_STRINGS", 4)
    mass = KnownMass()
    for k in range(10):
        mass.add([row(k, True, prompt=f"p{k % 5}") for _ in range(2)], [float(k)] * 2, [0.0] * 2, 1.0)
    for k in range(10):
        mass.add([row(k, True)], [float(k)], [0.0], 1.0)
    assert len(mass._prompts) == 3 and len(mass._prompts["x"][0]) == 4
    assert min(mass._prompts["x"][0].values()) == 6.0, "the best strings stay"
