"""A bounded wait with a name: past its limit it raises an error that says what it waits for."""

import time
from collections.abc import Callable

from buffer.errors import WaitTimeout


class NamedWait:
    """One wait, which begins at construction; the caller polls and calls `check` each time.

    wait = NamedWait("learner waits for data", limit_s=300, describe=lambda: f"{count()} of 64 trajectories")
    while not ready():
        wait.check()
        stopping.wait(0.1)
    """

    def __init__(
        self, name: str, limit_s: float, describe: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start a wait of at most `limit_s` seconds of `clock`; `describe` returns the counts for the sentence."""
        self.name = name
        self.limit_s = limit_s
        self._describe = describe
        self._clock = clock
        self._started = clock()

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._started

    def sentence(self) -> str:
        """The sentence for dashboard and error: name, counts, seconds waited and limit."""
        return f"{self.name}: {self._describe()} (waiting {self.waited_s:.0f} s, limit {self.limit_s:g} s)"

    def check(self) -> None:
        """Raise WaitTimeout with the sentence once the limit is exceeded."""
        if self.waited_s > self.limit_s:
            raise WaitTimeout(self.sentence())
