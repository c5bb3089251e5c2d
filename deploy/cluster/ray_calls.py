"""Results of calls to other processes: in time, or an error that names the process and where its log is."""

from typing import Any, TypeAlias

import ray

from buffer.errors import TributaryError, WaitTimeout
from deploy.cluster.death import LOGS, cause_of
from deploy.cluster.root_cause import root_cause

Handle: TypeAlias = Any
"""Handle of a Ray actor: its methods are called with `.remote(...)`. Ray has no type for the class behind it."""
Call: TypeAlias = Any
"""A call in flight: a ray.ObjectRef to its result."""

STORE_LIMIT_S = 10.0
"""Time within which a failed adapter store has told its error, after a process that needs it has, s."""
RESULT_LIMIT_S = 120.0


def result_of(call: Call, role: str) -> Any:
    """The result of a call. Raises the TributaryError that its process raised, in its constructor too.

    Raises an error that names `role` where the process died (deploy/cluster/death.py), or RESULT_LIMIT_S passed.
    """
    try:
        return ray.get(call, timeout=RESULT_LIMIT_S)
    except ray.exceptions.RayTaskError as error:
        raise (root_cause(error) or error) from None
    except ray.exceptions.GetTimeoutError as error:
        raise WaitTimeout(f"the {role} did not answer for {RESULT_LIMIT_S:.0f} s. {LOGS}") from error
    except ray.exceptions.RayActorError as error:
        raise cause_of(error, role) from error


def result_of_start(call: Call, role: str, of_store: Call) -> Any:
    """`result_of` a process that loads. Where the adapter store failed, which all others need, its error comes first.

    `of_store`: a call to the adapter store.
    """
    try:
        return result_of(call, role)
    except TributaryError:
        if call != of_store and ray.wait([of_store], timeout=STORE_LIMIT_S)[0]:
            result_of(of_store, "adapter store")
        raise
