"""The bottleneck and the alerts, from given measurements."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.dashboard.views.bottleneck import BottleneckInputs, find_bottleneck
from deploy.dashboard.views.buffer import pace_of
from deploy.telemetry.alert_rules import alerts_of
from deploy.telemetry.alerts import AlertInputs
from deploy.telemetry.event_detector import EventDetector
from deploy.telemetry.learning_rules import WINDOW
from tests.support.fixture_runs import LIMITS, learner_row, snapshot_row, summary

HEALTHY = BottleneckInputs(learner_waits=0.02, actors_wait=0.0, engine_busy=0.5, pace=None, actors_alive=2)


@pytest.mark.parametrize(
    ("changes", "who", "word"),
    [
        ({}, "learner", "sets the pace"),
        ({"learner_waits": 0.6}, "actors", "Sampling is the bottleneck"),
        ({"learner_waits": 0.6, "actors_alive": 0}, "actors", "No actor answers"),
        ({"learner_waits": 0.6, "actors_wait": 0.5}, "rewards", "Reward workers are the bottleneck"),
        ({"learner_waits": 0.6, "pace": "draws"}, "pace", "samples per insert"),
        ({"actors_wait": 0.7, "pace": "inserts"}, "learner", "The learner is the bottleneck"),
        ({"actors_wait": 0.7}, "rewards", "slower than actors"),
        ({"learner_waits": 0.15, "actors_wait": 0.1}, "balanced", "Well balanced"),
        ({"actors_wait": None, "engine_busy": None}, "learner", "sets the pace"),
    ],
)
def test_the_bottleneck_is_the_part_that_does_not_wait(changes, who, word):
    bottleneck = find_bottleneck(replace(HEALTHY, **changes))
    assert bottleneck is not None and bottleneck.who == who
    assert word in bottleneck.sentence and bottleneck.change.endswith(".")


def test_there_is_no_bottleneck_before_the_first_step():
    assert find_bottleneck(replace(HEALTHY, learner_waits=None)) is None


def test_samples_per_insert_holds_back_the_side_beyond_the_band():
    limits = {"samples_per_insert": 2.0, "samples_per_insert_band": 100.0, "min_size_to_sample": 10}

    def limited(drawn: int, arrivals: int) -> object:
        pace = pace_of({"drawn": drawn, "arrivals": arrivals}, limits)
        assert pace is not None and pace["ahead_rows"] == drawn - 2 * arrivals
        return pace["limited"]

    assert limited(2000, 1000) is None
    assert limited(2080, 1000) == "draws" and limited(2079, 1000) is None
    assert limited(1880, 1000) == "inserts" and limited(1881, 1000) is None
    assert pace_of({"drawn": 1, "arrivals": 1}, {"samples_per_insert": 0.0}) is None
    assert pace_of(None, limits) is None


BUFFER = {"size": 5000, "priority_ess": 2000.0}
ACTOR = {"name": "actor-0", "version": 99, "canary_difference_max": 5e-5}
GOOD = AlertInputs(
    LIMITS, now=1000.0, version=100, var_u=[8.0] * WINDOW + [0.5] * (2 * WINDOW), data_ages=[1.5] * WINDOW, missing_mass=[0.01] * WINDOW, cut=[0.2] * WINDOW, spreads=[3.0] * 5, diversity=[0.9] * 5,
    totals={name: [(100.0, 7), (1000.0, 7)] for name in ("skipped_steps", "quarantined", "refused", "inserted", "drawn", "arrivals", "restarts", "failed", "strings", "canaries_exceeded")},
    buffer=BUFFER, actors=[ACTOR], workers=[{"function_s": 0.2}], last_reply={"actor-0": 999.0}, last_step_at=990.0, free_bytes=10**11,
)  # fmt: skip


def grown(**by: int):
    """Totals that grew by so much within five minutes."""
    return {"totals": {name: [(700.0, 7), (1000.0, 7 + more)] for name, more in by.items()}}


OUTRUN = {
    "totals": {"drawn": [(300.0, 7), (500.0, 7), (1000.0, 1007)], "arrivals": [(300.0, 7), (500.0, 7), (1000.0, 17)]}
}
BAD = {
    "staleness": {"actors": [ACTOR | {"version": 60}]},
    "canary": grown(canaries_exceeded=2),
    "silent": {"last_reply": {"actor-0": 985.0}},
    "skipped": grown(skipped_steps=2),
    "quarantine": grown(quarantined=2),
    "var_u": {"var_u": [8.0] * WINDOW + [8.5] * (2 * WINDOW)},
    "old_data": {"data_ages": [30.0] * WINDOW},
    "missing_mass": {"missing_mass": [0.5] * WINDOW},
    "cut_off": {"cut": [0.84] * WINDOW},
    "equal_rewards": {"spreads": [0.0] * 5},
    "diversity": {"diversity": [0.05] * 5},
    "priority_ess": {"buffer": BUFFER | {"priority_ess": 20.0}},
    "disk": {"free_bytes": 10**8},
    "restarts": grown(restarts=2),
    "no_steps": {"last_step_at": 50.0},
    "rewards_fail": grown(failed=20, strings=1000),
    "rewards_slow": {"workers": [{"function_s": 2.0}]},
    "refusals": grown(refused=30, inserted=10),
    "repeats": OUTRUN,
}


def test_a_healthy_run_has_no_alert():
    assert alerts_of(GOOD) == []


@pytest.mark.parametrize(("name", "changes"), BAD.items())
def test_each_problem_raises_its_own_alert_with_cause_and_remedy(name, changes):
    (alert,) = alerts_of(replace(GOOD, **changes))
    assert alert.id == name and alert.what.endswith(".") and len(alert.cause) > 20 and len(alert.remedy) > 20


@pytest.mark.parametrize(
    "changes",
    [
        {"var_u": [0.04] * (3 * WINDOW)},  # it has converged
        {"var_u": [8.0] * 20},  # too early to tell
        {"buffer": {"size": 100, "priority_ess": 3.0}},  # hardly anything in it
        OUTRUN | {"limits": LIMITS | {"samples": False}},  # supervised training has no samples
        grown(drawn=1000, arrivals=10),  # a resumed run draws before its first trajectories arrive
        {"buffer": None},
        {"actors": [ACTOR | {"version": -1}]},  # it has not begun
        {"spreads": [0.0] * 2, "diversity": [0.0] * 2},
        {"spreads": [0.0] * 5, "limits": LIMITS | {"equal_rewards": True}},  # the task's strings have one reward
        {"cut": [0.84] * (WINDOW - 1)},  # too early to tell
        {"last_step_at": None},  # it has not begun
        {"data_ages": [30.0] * (WINDOW - 1)},  # too early to tell
        grown(canaries_exceeded=1),
        grown(restarts=1, failed=5, strings=1000, refused=3, inserted=10),
    ],
)
def test_what_is_no_trouble_raises_none(changes):
    assert alerts_of(replace(GOOD, **changes)) == []


def test_events_are_a_restart_a_long_wait_a_loss_and_an_alert_that_comes_and_goes(tmp_path: Path):
    detector, rng = EventDetector(LIMITS, tmp_path), np.random.default_rng(0)
    texts = []

    def see(at: float, **changes) -> None:
        now = snapshot_row(50, 50.0, rng) | {"waits": []}
        for name, value in changes.items():
            now[name] = value
        texts.extend(event.text for event in detector.snapshot(at, now))

    for event in detector.step(0.0, learner_row(50, 160, rng) | summary(50, 160, rng)):
        texts.append(event.text)
    assert texts == ["Version 50 was published."]
    see(1.0)
    assert texts[1:] == ["Training."]
    actors = snapshot_row(50, 50.0, rng)["actors"]
    see(2.0, actors=[actors[0] | {"seconds": 0.5}, actors[1]])
    assert texts[2:] == ["actor-0 was started again."] and detector.restarts == {"actor-0": 1}
    for second in range(3, 14):
        see(float(second), actors=actors[:1], waits=[f"learner waits for data: {second} of 64"])
    assert texts[3:] == ["learner waits for data: 12 of 64", "actor-1 has not answered for 11 s (1 silent in all)."]
    assert [alert.since for alert in detector.alerts] == [13.0]
    see(14.0)
    assert texts[-1].startswith("No longer: actor-1") and detector.alerts == []
    for second in range(15, 40):
        see(float(second), actors=actors[:1], actor_names=["actor-0"])
    assert detector.alerts == [], "one that was removed or given up need not answer"
    lost = snapshot_row(50, 50.0, rng)
    lost["buffer"] |= {"refused": lost["buffer"]["refused"] | {"reward_failed": 4}, "quarantined": 2}
    lost["rewards"][0]["last_failure"] = "log_reward raised"
    see(15.0, buffer=lost["buffer"], rewards=lost["rewards"])
    assert "4 strings were quarantined. The last one because log_reward raised" in texts
    assert "2 rows of the buffer were quarantined; `tributary buffer stats` has the reasons." in texts
    assert {alert.id for alert in detector.alerts} == {"quarantine", "refusals"}
