"""The monitors name processes that are slow, silent or failing; actors that hang are ended."""

from typing import Any

import pytest

from deploy.cluster import statuses, watchdog
from deploy.cluster.actor_monitor import ActorMonitor
from deploy.cluster.adapter_store import Health
from deploy.cluster.process_events import ProcessEvents
from deploy.cluster.reward_monitor import RewardMonitor
from rewards.time_limit import longest_call_s

REWARD = {"function_s": 0.01, "slowest_s": 0.02, "failed": 0, "last_failure": ""}
ACTOR = {"name": "actor-0", "waiting_for": None, "engine_step_s": 0.0}


class FakeRay:
    """Calls that answer at once or never, and the processes that were killed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.killed: list[Any] = []
        self.dead: set[Any] = set()
        """Calls whose process has died."""

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call.answer is not None], []

    def get(self, call: Any) -> dict[str, Any]:
        if call in self.dead:
            raise statuses.ray.exceptions.ActorUnavailableError("restarting", None)
        if isinstance(call.answer, Exception):
            raise call.answer
        return dict(call.answer)

    def kill(self, process: Any, no_restart: bool) -> None:
        assert not no_restart
        self.killed.append(process)


class Process:
    """A handle whose status calls all have this answer or error; None: it hangs."""

    def __init__(self, answer: dict[str, Any] | Exception | None) -> None:
        self.answer = answer
        self.status = self

    def options(self, max_task_retries: int) -> "Process":
        assert max_task_retries == 0, "a call to a process that loads must fail, not wait"
        return self

    def remote(self) -> "Process":
        return Process(self.answer)


class Beats:
    """Name of a process -> seconds since its last heartbeat, as the adapter store counts them."""

    def __init__(self, **silent_s: float) -> None:
        self.seconds = silent_s

    def forget_beats(self, process: str) -> None:
        self.seconds.pop(process, None)


def health(without_beat: dict[str, float], forgotten: bool = False, **starts: int) -> Health:
    return Health(dict(without_beat), {name.replace("_", "-"): n for name, n in starts.items()}, forgotten)


def reward_monitor(beats: Beats | None = None, events: ProcessEvents | None = None) -> RewardMonitor:
    store: Any = beats or Beats()
    return RewardMonitor(10.0, 60.0, store, events or ProcessEvents())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setattr(statuses.ray, "wait", ray.wait)
    monkeypatch.setattr(statuses.ray, "get", ray.get)
    monkeypatch.setattr(watchdog.ray, "kill", ray.kill)
    monkeypatch.setattr(statuses.time, "monotonic", lambda: ray.now)  # the module that all share
    return ray


def troubles(**status: Any) -> list[str]:
    """The sentences about one worker with this status."""
    worker = Process(REWARD | status)
    monitor = reward_monitor()
    monitor.troubles({0: worker}, health({}))
    return monitor.troubles({0: worker}, health({}))


def test_a_healthy_worker_is_not_mentioned(fake: FakeRay) -> None:
    assert troubles() == []


def test_a_slow_function_is_named_with_its_seconds_and_the_limit(fake: FakeRay) -> None:
    [sentence] = troubles(function_s=1.5, slowest_s=7.0)
    assert sentence.startswith("reward-0: the task's log_reward is slow, 1.5 s per string on average, 7 s at most")
    assert "rewards.time_limit_s = 10" in sentence


def test_failures_are_named_with_the_last_reason(fake: FakeRay) -> None:
    [sentence] = troubles(failed=3, last_failure="log_reward raised KeyError: 'x'")
    assert sentence == "reward-0 has quarantined 3 strings, the last one because log_reward raised KeyError: 'x'"


def test_a_worker_that_is_at_one_batch_is_named_with_its_seconds_and_not_ended(fake: FakeRay) -> None:
    monitor, workers = reward_monitor(), {0: Process(None), 1: Process(REWARD)}
    assert monitor.troubles(workers, health({"reward-0": 0.5})) == []
    fake.now += 4200.0
    [sentence] = monitor.troubles(workers, health({"reward-0": 0.5}))
    assert sentence.startswith("reward-0 has been at one batch for 4200 s")
    assert fake.killed == [] and len(monitor.statuses) == 1, "of the other one"


def test_a_worker_whose_process_sends_no_heartbeats_is_named_and_then_ended_once(fake: FakeRay) -> None:
    hung, beats, events = Process(None), Beats(**{"reward-0": 59.0, "reward-9": 900.0}), ProcessEvents()
    monitor = reward_monitor(beats, events)
    [sentence] = monitor.troubles({0: hung, 1: Process(REWARD)}, health(beats.seconds))
    assert sentence.startswith("reward-0 does not answer: for 59 s; it is ended after 60 s") and not fake.killed
    assert monitor.hung == {0}, "it is not ready"
    assert monitor.troubles({0: hung, 1: Process(REWARD)}, None) == [sentence], "the store has not answered yet"
    beats.seconds["reward-0"] = 61.0
    late = health(beats.seconds)  # an answer from before the end
    for ages in (health(beats.seconds), late, None):
        assert monitor.troubles({0: hung, 1: Process(REWARD)}, ages) == []
        assert fake.killed == [hung]
    assert [event.text for event in events.drain()] == ["reward-0 did not answer for 61 s: it was ended"]


def test_a_worker_that_died_is_not_ended_while_it_starts_again(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    beats, dead = Beats(**{"reward-0": 900.0}), Process(REWARD)
    monitor = reward_monitor(beats)
    monitor.troubles({0: dead}, health({}))
    monkeypatch.setattr(statuses.ray, "get", lambda call: fake.dead.add(call) or FakeRay.get(fake, call))
    assert monitor.troubles({0: dead}, health(beats.seconds)) == []
    assert fake.killed == [] and beats.seconds == {}, "the last heartbeat is one of its earlier life"


def test_the_longest_call_that_the_recipe_allows_is_no_hang(fake: FakeRay) -> None:
    monitor = RewardMonitor(200.0, 60.0, Beats(), ProcessEvents())
    [sentence] = monitor.troubles({0: Process(REWARD)}, health({"reward-0": 399.0}))
    assert f"it is ended after {longest_call_s(200.0):g} s" in sentence and fake.killed == []


def test_a_worker_that_ray_restarts_keeps_its_last_status(fake: FakeRay) -> None:
    monitor = reward_monitor()
    monitor.troubles({0: Process(REWARD)}, health({}))
    monitor.troubles({0: Process(None)}, health({}))
    assert len(monitor.statuses) == 1
    assert monitor.troubles({1: Process(None)}, health({})) == [] and monitor.statuses == [], "it was removed"


def test_the_death_of_a_worker_is_told_once_for_each_death_and_its_end_is_known(fake: FakeRay) -> None:
    events, restarting = ProcessEvents(), statuses.ray.exceptions.ActorUnavailableError("restarting", None)
    monitor = reward_monitor(events=events)
    for answer, down in (
        (restarting, set()), (restarting, {0}), (restarting, {0}), (REWARD, {0}), (restarting, set()), (REWARD, {0}),
    ):  # fmt: skip
        monitor.troubles({0: Process(answer), 1: Process(REWARD)}, health({}))
        assert monitor.down == down, "known from the answer to the request before"
    assert [event.text for event in events.drain()] == ["reward-0 died and is being restarted"] * 2
    gone = statuses.ray.exceptions.ActorDiedError()
    for _ in range(2):
        monitor.troubles({0: Process(gone), 1: Process(REWARD)}, health({}))
    assert monitor.gone == {0: gone} and events.drain() == []
    monitor.troubles({1: Process(REWARD)}, health({}))
    assert monitor.gone == {} and monitor.down == set()


def test_a_start_after_the_death_of_the_adapter_store_is_noticed_too(fake: FakeRay) -> None:
    events = ProcessEvents()
    monitor, workers = reward_monitor(events=events), {0: Process(REWARD)}
    for one in (health({}, reward_0=5), health({}, forgotten=True), health({}), health({}, reward_0=1)):
        monitor.troubles(workers, one)
    assert [event.text for event in events.drain()] == ["reward-0 died and is being restarted"]


def test_a_death_after_that_of_the_adapter_store_is_told_though_the_start_before_was_forgotten(fake: FakeRay) -> None:
    """The first death is told by a request, and the store dies before it has told of the start after it."""
    events, restarting = ProcessEvents(), statuses.ray.exceptions.ActorUnavailableError("restarting", None)
    monitor = reward_monitor(events=events)
    monitor.troubles({0: Process(restarting)}, health({}, reward_0=1))
    monitor.troubles({0: Process(REWARD)}, health({}, reward_0=1))
    monitor.troubles({0: Process(REWARD)}, health({}, forgotten=True))
    monitor.troubles({0: Process(REWARD)}, health({}, reward_0=1))
    assert [event.text for event in events.drain()] == ["reward-0 died and is being restarted"] * 2


def test_a_start_that_is_counted_after_the_death_was_told_is_no_second_death(fake: FakeRay) -> None:
    events, restarting = ProcessEvents(), statuses.ray.exceptions.ActorUnavailableError("restarting", None)
    monitor = reward_monitor(events=events)
    for answer, starts in ((restarting, 1), (REWARD, 1), (REWARD, None), (REWARD, 2), (REWARD, 2), (REWARD, 3)):
        monitor.troubles({0: Process(answer)}, health({}, reward_0=starts) if starts else None)
    assert [event.text for event in events.drain()] == ["reward-0 died and is being restarted"] * 2


def test_a_beat_of_an_earlier_life_that_arrives_late_ends_no_worker_that_loads(fake: FakeRay) -> None:
    restarting = statuses.ray.exceptions.ActorUnavailableError("restarting", None)
    monitor, late = reward_monitor(), health({"reward-0": 0.5})
    for one in (health({"reward-0": 0.5}), None, late, None):
        monitor.troubles({0: Process(restarting)}, one)
        fake.now += 1.0
    fake.now += 100.0
    assert monitor.troubles({0: Process(restarting)}, health({})) == [] and fake.killed == []


def test_a_worker_that_stopped_before_the_adapter_store_died_is_ended_though_the_store_knows_of_no_beat(
    fake: FakeRay,
) -> None:
    monitor, workers = reward_monitor(), {0: Process(None)}
    monitor.troubles(workers, health({"reward-0": 1.0}))
    fake.now += 30.0
    [sentence] = monitor.troubles(workers, health({}))
    assert sentence.startswith("reward-0 does not answer: for 31 s") and fake.killed == []
    fake.now += 30.0
    monitor.troubles(workers, None)
    assert len(fake.killed) == 1


def test_a_death_that_no_request_met_is_told_by_the_start_after_it(fake: FakeRay) -> None:
    """Ray keeps a request that it gets while a process is being restarted."""
    events = ProcessEvents()
    monitor = reward_monitor(events=events)
    for starts, down in ((1, set()), (1, set()), (2, {0}), (2, {0}), (2, set()), (1, set()), (1, set())):
        monitor.troubles({0: Process(REWARD)}, health({}, reward_0=starts, actor_0=starts))
        assert monitor.down == down
    assert [event.text for event in events.drain()] == ["reward-0 died and is being restarted"]


@pytest.mark.parametrize("answer", [None, ACTOR | {"engine_step_s": 61.0}], ids=["process", "engine"])
def test_a_hung_actor_is_ended_and_so_is_one_whose_engine_hangs(fake: FakeRay, answer: dict[str, Any] | None) -> None:
    hung, well, events = Process(answer), Process(ACTOR | {"waiting_for": "a slot"}), ProcessEvents()
    monitor = ActorMonitor(60.0, events)
    monitor.report({3: hung, 4: well})
    fake.now += 59.0
    if answer is None:
        [sentence] = [wait for wait in monitor.report({3: hung, 4: well})[1] if "actor-3" in wait]
        assert sentence.startswith("actor-3 does not answer: for 59 s; it is ended after 60 s") and not fake.killed
        assert monitor.hung == {3}, "it is not ready"
    fake.now += 2.0
    reported, waits = monitor.report({3: hung, 4: well})
    assert fake.killed[-1] is hung and "actor-3 did not answer for 61 s" in events.drain()[-1].text
    fake.now, killed = fake.now + 100.0, len(fake.killed)
    monitor.report({3: Process(None), 4: well})
    assert len(fake.killed) == killed and events.drain() == [], "Ray has not seen its end yet"
    assert monitor.hung == set() and waits == ["a slot"] and reported[-1]["waiting_for"] == "a slot"
    assert len(reported) == (1 if answer is None else 2), "one that does not answer has no status"


def test_a_process_that_ray_restarts_owes_no_answer(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, loading = ActorMonitor(60.0, ProcessEvents()), Process(ACTOR)
    assert monitor.report({0: loading}) == ([ACTOR], [])
    monkeypatch.setattr(statuses.ray, "get", lambda call: fake.dead.add(call) or FakeRay.get(fake, call))
    for _ in range(5):
        assert monitor.report({0: loading}) == ([], [])
        fake.now += 100.0
    assert fake.killed == []
