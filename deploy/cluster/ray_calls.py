"""An answer from another process: in time, or an error that names the process and says where to look."""

from typing import Any

import ray

from buffer.errors import TributaryError, WaitTimeout

ANSWER_LIMIT_S = 120.0
LOGS = "What its process said last is in the logs folder of the Ray session (by default /tmp/ray/session_latest/logs)."


def answer(call: Any, role: str) -> Any:
    """The result of a call; a process that died, or is silent for ANSWER_LIMIT_S, is named."""
    try:
        return ray.get(call, timeout=ANSWER_LIMIT_S)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.GetTimeoutError as error:
        raise WaitTimeout(f"the {role} did not answer for {ANSWER_LIMIT_S:.0f} s. {LOGS}") from error
    except ray.exceptions.RayActorError as error:
        raise TributaryError(
            f"the process of the {role} died; where memory is short, the system kills the largest (`dmesg`). {LOGS}"
        ) from error


def answer_or_none(call: Any) -> Any:
    """The result; None where the process has died."""
    try:
        return ray.get(call)
    except ray.exceptions.RayActorError:
        return None  # it is being started again
