"""Ctrl-C and SIGTERM: the first one ends the run after the current step, a second one at once.

While the run starts, the first one ends it at once, too. It may have reached every process of the run (scancel,
systemd, `timeout`), and then a call to Ray or Redis waits for a minute: an exception takes the driver out of any wait.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console

REPEAT_S = 1.0
"""A signal that follows the first one sooner is the same request: `timeout` signals the command, then its group."""


@contextmanager
def exit_on_signal(console: Console) -> Iterator[None]:
    """For the checks before a run: a signal ends the command with one sentence and exit code 0."""
    with StopSignal() as stop:
        try:
            yield
        except KeyboardInterrupt as interrupt:
            console.print(stop.before_training)
            raise SystemExit(0) from interrupt


class StopSignal:
    """A context manager; true once a signal has arrived."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.name: str | None = None
        """Name of the signal that arrived; None before."""
        self.starting = True
        """While true, the first signal raises KeyboardInterrupt in the main thread."""
        self._clock = clock
        self._arrived_at = 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.name is not None

    @property
    def before_training(self) -> str:
        """What to tell the user of a signal that came before the first step."""
        return f"Stopped by {self.name} before training began: nothing was learned."

    def _handle(self, number: int, _frame: object) -> None:
        if self.name is None:
            self.name, self._arrived_at = signal.Signals(number).name, self._clock()
            if self.starting:
                raise KeyboardInterrupt
        elif self._clock() - self._arrived_at > REPEAT_S:
            raise KeyboardInterrupt
