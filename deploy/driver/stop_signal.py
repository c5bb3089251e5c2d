"""Ctrl-C and SIGTERM: the first one ends the run after the current step, a second one at once."""

import signal
from types import TracebackType
from typing import Self


class StopSignal:
    """A context manager; true once a signal has arrived. Enter it after ray.init, which sets handlers of its own."""

    def __init__(self) -> None:
        self.name: str | None = None
        """Name of the signal that arrived; None before."""

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

    def _handle(self, number: int, _frame: object) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
