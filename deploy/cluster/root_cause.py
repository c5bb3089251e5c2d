"""Unwraps the original TributaryError from Ray's exception chain."""

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


def _inner(error: BaseException) -> BaseException | None:
    """The error in Ray's exception: in `cause` of a RayTaskError, an argument of a constructor's ActorDiedError."""
    carried = [getattr(error, "cause", None)]
    if getattr(error, "actor_init_failed", False):
        carried += error.args
    return next((inner for inner in carried if isinstance(inner, BaseException)), None)
