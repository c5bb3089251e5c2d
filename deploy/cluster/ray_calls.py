"""Results of calls to other processes: in time, or an error that names the process and where its log is."""

from typing import Any, TypeAlias

import ray

from buffer.errors import WaitTimeout
from deploy.cluster.death import LOGS, cause_of
from deploy.cluster.root_cause import root_cause

Handle: TypeAlias = Any
"""Handle of a Ray actor: its methods are called with `.remote(...)`. Ray has no type for the class behind it."""
Call: TypeAlias = Any
"""A call in flight: a ray.ObjectRef to its result."""

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
