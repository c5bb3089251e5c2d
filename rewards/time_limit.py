"""A time limit for functions written by users: whatever such a function does, the worker gets control back.

There are two limits. The first interrupts Python code, regular expressions included, by a signal that repeats until the
function has returned. The second is for code that no signal reaches (a loop in C, code that catches everything): a C
thread, which needs no help from Python, ends the process.
"""

import faulthandler
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rewards.user_frame import place_of

T = TypeVar("T")

STDERR = 2
"""File descriptor that gets the traceback when the process is ended."""
GRACE_S = 10.0
"""Time that the process is given beyond twice the time limit before it is ended."""


def longest_call_s(limit_s: float) -> float:
    """Time after which the process ends in code that no signal interrupts, s."""
    return 2 * limit_s + GRACE_S


class TimeLimitExceeded(BaseException):
    """Raised inside the function. Not an Exception, so that `except Exception` does not stop it."""


class CallFailed(Exception):
    """The function returned no result; the message says why, with the user's own line, in one line."""


def call_with_limit(
    call: Callable[[], T], limit_s: float, description: str, setting: str = "rewards.time_limit_s"
) -> T:
    """Return call(). Raise CallFailed for any exception, SystemExit included, and when it exceeds `limit_s`, which the
    error calls `setting`.

    The limits hold only in a process's main thread, because Python delivers signals nowhere else. KeyboardInterrupt is
    passed on.
    """
    try:
        with _limits(limit_s):
            return call()
    except TimeLimitExceeded:
        raise CallFailed(f"{description} took longer than {setting} = {limit_s:g} s") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CallFailed(f"{description} raised {type(error).__name__}: {_one_line(error)}{place_of(error)}") from error


@contextmanager
def _limits(limit_s: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    inside = True

    def interrupt(number: int, frame: object) -> None:
        if inside:
            raise TimeLimitExceeded

    previous_handler = signal.signal(signal.SIGALRM, interrupt)
    faulthandler.dump_traceback_later(longest_call_s(limit_s), exit=True, file=STDERR)
    signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
    try:
        try:
            yield
        finally:
            inside = False  # a signal may arrive just before this line, but not again before the next ones are done
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous_handler)


def _one_line(error: BaseException) -> str:
    """At most 200 characters of the exception's message; str() of an exception may fail too."""
    try:
        text = str(error)
    except BaseException:
        return "(its message could not be read)"
    return " ".join(text.split())[:200]
