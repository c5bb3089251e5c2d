"""A wait has a name, a count and an end."""

import pytest

from buffer.errors import WaitTimeout
from buffer.named_wait import NamedWait


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_wait_is_silent_up_to_its_limit_and_speaks_beyond_it() -> None:
    clock = Clock()
    wait = NamedWait("learner waits for data", 300, lambda: "12 of 64 trajectories", clock)
    clock.now += 300
    wait.check()
    clock.now += 1
    with pytest.raises(WaitTimeout) as error:
        wait.check()
    assert str(error.value) == "learner waits for data: 12 of 64 trajectories (waiting 301 s, limit 300 s)"


def test_the_sentence_describes_what_is_true_when_it_is_asked() -> None:
    clock, counts = Clock(), [12]
    wait = NamedWait("learner waits for data", 300, lambda: f"{counts[0]} of 64 trajectories", clock)
    counts[0], clock.now = 13, clock.now + 41
    assert wait.sentence() == "learner waits for data: 13 of 64 trajectories (waiting 41 s, limit 300 s)"
