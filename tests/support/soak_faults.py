"""The faults of a soak: what each one does to a run, when the run has recovered, and which words must name it."""

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.soaked_run import SoakedRun

GARBAGE = b"\x93no record"
POISONED = 10
"""Records that one fault spoils."""
PAUSE_S = 3.0
"""Time for which Redis is stopped, s: shorter than the patience of its clients."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. The next one of a `part` waits until the one before is over."""

    name: str
    part: str
    weight: float
    words: str | None
    """Regular expression of a message that names it, and in a group how many; None for what all clients sit out."""
    inject: Callable[[SoakedRun], Callable[[], bool]]
    """Does it; returns a function that is true once the part works again."""


@dataclass(slots=True)
class Fault:
    """One that was injected."""

    kind: Kind
    step: int
    recovered: Callable[[], bool]
    quarantined: int
    """Rows of the buffer that were in quarantine before."""
    at: float = field(default_factory=time.time)
    recovery_s: float | None = None
    was_met: bool = True
    """False: all spoiled records were replaced before anybody read them."""


def inject(kind: Kind, run: SoakedRun) -> Fault:
    """Do it now."""
    quarantined = run.counter("quarantined")
    step = run.newest_row()["step"]
    return Fault(kind, step, kind.inject(run), quarantined)


def end_of(fault: Fault, run: SoakedRun) -> None:
    """Note that its part works again."""
    fault.recovery_s = time.time() - fault.at
    fault.was_met = fault.kind.part != "records" or run.counter("quarantined") > fault.quarantined


class NotThere(Exception):
    """The part has no process at the moment."""


def _signal(pid: int, number: signal.Signals) -> None:
    if pid <= 1:
        raise NotThere
    os.kill(pid, number)


def _replaced(part: str, by: signal.Signals) -> Callable[[SoakedRun], Callable[[], bool]]:
    """Signal the process of a part; well again once another one works and strings arrive."""

    def inject(run: SoakedRun) -> Callable[[], bool]:
        lost = run.pid(part)
        _signal(lost, by)
        arrivals: list[int] = []

        def recovered() -> bool:
            if run.pid(part) in (0, lost) or run.ready().get(part, 1) < 1:
                return False
            arrivals.append(run.counter("arrivals"))
            return arrivals[-1] > arrivals[0]

        return recovered

    return inject


def _kill_learner(run: SoakedRun) -> Callable[[], bool]:
    """Well again once another learner has made a step."""
    lost = run.pid("learner")
    _signal(lost, signal.SIGKILL)
    steps: list[int] = []

    def recovered() -> bool:
        if run.ready()["learner"] < 1:
            steps.append(-1)
        elif steps and run.pid("learner") not in (0, lost):
            steps.append(run.newest_row()["step"])
        new = [step for step in steps if step >= 0]
        return bool(new) and new[-1] > new[0]

    return recovered


def _kill_store(run: SoakedRun) -> Callable[[], bool]:
    """Well again once another store has a newer adapter than the lost one had."""
    lost, version = run.pid("store"), run.newest_row()["version"]
    _signal(lost, signal.SIGKILL)
    return lambda: run.pid("store") not in (0, lost) and run.newest_row()["version"] > version + 1


def _pause_redis(run: SoakedRun) -> Callable[[], bool]:
    paused = run.pid("redis")
    _signal(paused, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    _signal(paused, signal.SIGCONT)
    return _arrives(run)


def _cut_connections(run: SoakedRun) -> Callable[[], bool]:
    run.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return _arrives(run)


def _arrives(run: SoakedRun) -> Callable[[], bool]:
    arrivals = run.counter("arrivals")
    return lambda: run.counter("arrivals") > arrivals


def _poison_records(run: SoakedRun) -> Callable[[], bool]:
    """Well again once none of the spoiled records is left: each was quarantined when it was drawn, or the same string
    came again before."""
    digests: list[bytes] = run.client.hrandfield(run.keys.payload, POISONED) or []  # type: ignore[assignment]
    for digest in digests:
        run.client.hset(run.keys.payload, digest, GARBAGE)  # type: ignore[arg-type]
    return lambda: GARBAGE not in run.client.hmget(run.keys.payload, digests)  # type: ignore[operator,arg-type]


def _failing_reward(how: str) -> Callable[[SoakedRun], Callable[[], bool]]:
    """One call of the reward fails; well again once strings arrive after it."""

    def inject(run: SoakedRun) -> Callable[[], bool]:
        request = run.folder.parent / "request"
        new = request.with_suffix(".new")
        new.write_text(how)
        new.rename(request)
        lost, arrivals = run.pid("reward"), list[int]()

        def recovered() -> bool:
            if request.exists() or (how in ("exit", "segfault") and run.pid("reward") in (0, lost)):
                return False
            arrivals.append(run.counter("arrivals"))
            return arrivals[-1] > arrivals[0]

        return recovered

    return inject


ACTOR_DIED = r"actor-\d+ (?:died and is being restarted|did not answer)"
WORKER_DIED = r"reward-\d+ (?:died and is being restarted|did not answer)"
STRING_FAILED = r"(\d+) strings were quarantined\."
KINDS = (
    Kind("learner killed", "learner", 5, r"the learner starts again from its newest checkpoint", _kill_learner),
    Kind("adapter store killed", "store", 5, r"the adapter store died and is back", _kill_store),
    Kind("redis killed", "redis", 1.5, r"Redis was restarted", _replaced("redis", signal.SIGKILL)),
    Kind("redis stopped for 3 s", "redis", 4, None, _pause_redis),
    Kind("connections to redis cut", "redis", 6, None, _cut_connections),
    Kind("records spoiled", "records", 4, r"(\d+) rows of the buffer were quarantined", _poison_records),
    Kind("reward raises", "reward", 4, STRING_FAILED, _failing_reward("raise")),
    Kind("reward returns nan", "reward", 4, STRING_FAILED, _failing_reward("nan")),
    Kind("reward hangs", "reward", 3, STRING_FAILED, _failing_reward("hang")),
    Kind("reward exits", "reward", 0.7, WORKER_DIED, _failing_reward("exit")),
    Kind("reward segfaults", "reward", 0.7, WORKER_DIED, _failing_reward("segfault")),
    Kind("reward worker killed", "reward", 1, WORKER_DIED, _replaced("reward", signal.SIGKILL)),
    Kind("reward worker stopped", "reward", 0.5, r"reward-\d+ did not answer", _replaced("reward", signal.SIGSTOP)),
    Kind("actor killed", "actor", 1, ACTOR_DIED, _replaced("actor", signal.SIGKILL)),
    Kind("actor stopped", "actor", 0.5, r"actor-\d+ did not answer", _replaced("actor", signal.SIGSTOP)),
)


def silent(faults: Sequence[Fault], messages: Sequence[tuple[float, str]], patience_s: float) -> list[Fault]:
    """The faults that no message named from a second before until `patience_s` after their end.

    A message names one fault; one on N strings names N.
    """
    unnamed = []
    for words in {fault.kind.words for fault in faults}:
        if words is None:
            continue
        told = sorted(
            (at, int(found[1]) if found.groups() else 1) for at, text in messages if (found := re.search(words, text))
        )
        left = [number for _, number in told]
        for fault in (f for f in faults if f.kind.words == words and f.was_met):
            last = fault.at + (fault.recovery_s or 0.0) + patience_s
            fitting = (k for k, (at, _) in enumerate(told) if left[k] and fault.at - 1 <= at <= last)
            if (k := next(fitting, None)) is None:
                unnamed.append(fault)
            else:
                left[k] -= 1
    return unnamed
