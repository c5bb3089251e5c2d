"""What lies at the bottom of an error that came through Ray."""

from buffer.errors import TributaryError


def cause_of(error: BaseException) -> TributaryError | None:
    """The error made on purpose at the root of what Ray passed on from another process; None where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        if isinstance(cause, TributaryError) and not isinstance(inner, BaseException):
            return cause
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return None
