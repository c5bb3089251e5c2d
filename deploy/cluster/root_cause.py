"""Unwraps the original error from Ray's exception chain, and says it in words."""

import traceback

from buffer.errors import TributaryError


def root_cause(error: BaseException) -> TributaryError | None:
    """The TributaryError that another process raised and Ray passed on; None where the root is another error."""
    cause: BaseException | None = error
    while cause is not None:
        inner = _inner(cause)
        if isinstance(cause, TributaryError) and inner is None:
            return cause
        cause = inner or cause.__cause__
    return None


def innermost(error: BaseException) -> BaseException:
    """The first error of Ray's chain: what another process raised, or Ray's own error where nothing did."""
    while (inner := _inner(error)) is not None:
        error = inner
    return error


def in_words(error: BaseException) -> str:
    """Type and text of an error; of one without a text, such as a bare `assert`, the place and the line that raised
    it."""
    name, text = type(error).__name__, str(error).strip()
    frames = traceback.extract_tb(error.__traceback__)
    if text or not frames:
        return f"{name}: {text or 'no text'}"
    return f"{name} without a text, at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"


def _inner(error: BaseException) -> BaseException | None:
    """The error in Ray's exception: in `cause` of a RayTaskError, an argument of a constructor's ActorDiedError."""
    carried = [getattr(error, "cause", None)]
    if getattr(error, "actor_init_failed", False):
        carried += error.args
    return next((inner for inner in carried if isinstance(inner, BaseException)), None)
