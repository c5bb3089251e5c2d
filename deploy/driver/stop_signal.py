"""Ctrl-C and SIGTERM, remembered: the run ends after the step under way, and at once with a second one."""

import signal
from types import TracebackType
from typing import Self


class StopSignal:
    """A context manager; enter it after ray.init, which sets handlers of its own."""

    def __init__(self) -> None:
        self.name: str | None = None
        """Of the signal that came; None before."""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.name is not None

    def _remember(self, number: int, _frame: object) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
