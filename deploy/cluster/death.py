"""Why a process of a run failed or died, as far as Ray and the logs tell: its own error, its exit code, its signal.

Ray passes on what a constructor raises. Of a process that died it knows at most the exit code; a signal that can be
caught is in the log of the process, and one that can't be leaves nothing.
"""

import re
from pathlib import Path

import ray

from buffer.errors import TributaryError
from deploy.cluster.ray_folder import ray_folder
from deploy.cluster.root_cause import in_words, innermost, root_cause

LOGS = f"Its last output is in the logs folder of the Ray session ({ray_folder()}/session_latest/logs of its node)."
POINTS_ELSEWHERE = "See stack trace for root cause"
"""In the error of a vLLM whose workers are processes of their own: theirs is in the log."""
TAIL_BYTES = 100_000
"""The end of a log that is searched for a signal, bytes."""


def cause_of(error: BaseException, role: str) -> TributaryError:
    """The error that a process passed on, or one that says how the process of `role` died."""
    if own := root_cause(error):
        return own
    raised = innermost(error)
    if raised is not error and isinstance(raised, Exception):
        return TributaryError(f"the process of the {role} failed to start: {in_words(raised)}. {LOGS}")
    return TributaryError(f"the process of the {role} {how_it_died(str(error))}. {LOGS}")


def how_it_died(told: str) -> str:
    """What Ray's error text and the log of the process tell, as the end of a sentence."""
    pid = re.search(r"\bpid: (\d+)", told)
    if code := re.search(r"exit code (-?\d+)", told):
        how = f"ended with exit code {code[1]}"
    elif "running low on memory" in told:
        how = "was killed by Ray, because its machine was short of memory"
    elif pid and (name := _signal_in_log(int(pid[1]))):
        how = f"died by {name}"
    else:
        how = (
            "died without a word, as by SIGKILL; when memory is short, the system kills the largest process (see "
            "`dmesg`)"
        )
    return f"(process {pid[1]}) {how}" if pid else how


def last_error_in_log(pid: int) -> str | None:
    """The last error that a process of this machine, or a child of it, wrote to its log; None without one."""
    text = "\n".join(_tail(path) for path in _logs().glob(f"worker-*-{pid}.err"))
    errors = re.findall(r"\b([A-Za-z_.]*(?:Error|Exception): .+)$", text, re.MULTILINE)
    return next((str(error).strip() for error in reversed(errors) if POINTS_ELSEWHERE not in error), None)


def _signal_in_log(pid: int) -> str | None:
    """The name of the signal that a process of this machine wrote at its end; None without one or elsewhere."""
    tails = [_tail(path) for path in _logs().glob(f"worker-*-{pid}.err")]
    names = [name for tail in tails for name in re.findall(r"\*\*\* (SIG[A-Z]+) received", tail)]
    return names[-1] if names else None


def _logs() -> Path:
    return ray_folder() / str(ray.get_runtime_context().get_session_name()) / "logs"


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")
