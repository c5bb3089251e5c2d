"""A user's function under a time limit: whatever it does, the worker learns of it.

Two limits. The first interrupts Python code, regular expressions included, by a signal that comes again until the
function is left. The second is for what no signal reaches (a loop in C, code that catches everything): it ends the
process, from a thread of C that needs no help of Python's.
"""

import faulthandler
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STDERR = 2
"""Its descriptor: where the process says what it was at when it was ended."""
GRACE_S = 10.0
"""Beyond twice the time limit, before the process is ended."""


class OutOfTime(BaseException):
    """Raised inside of the function; no Exception, so that `except Exception` does not stop it."""


class Failed(Exception):
    """The function gave no answer; the text says why, in one line."""


def guarded(call: Callable[[], T], limit_s: float, what: str) -> T:
    """What `call` returns. Raise Failed for any exception, SystemExit too, and when it takes longer than `limit_s`.

    Limits hold in a process's main thread only: signals come nowhere else. There Ctrl-C is passed on.
    """
    try:
        with _limits(limit_s):
            return call()
    except OutOfTime:
        raise Failed(f"{what} took longer than rewards.time_limit_s = {limit_s:g} s") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Failed(f"{what} raised {type(error).__name__}: {_one_line(error)}") from error


@contextmanager
def _limits(limit_s: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    inside = True

    def interrupt(number: int, frame: object) -> None:
        if inside:
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, interrupt)
    faulthandler.dump_traceback_later(2 * limit_s + GRACE_S, exit=True, file=STDERR)
    signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
    try:
        try:
            yield
        finally:
            inside = False  # a signal may come just before this line, and not again before the next ones are done
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _one_line(error: BaseException) -> str:
    """At most 200 characters of its text; an exception's own text may fail too."""
    try:
        text = str(error)
    except BaseException:
        return "(its text could not be had)"
    return " ".join(text.split())[:200]
