"""Unwraps the original TributaryError from Ray's exception chain."""

from buffer.errors import TributaryError


def root_cause(error: BaseException) -> TributaryError | None:
    """The TributaryError that another process raised and Ray passed on; None where the root is another error."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(cause, TributaryError) and not isinstance(inner, BaseException):
            return cause
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return None
