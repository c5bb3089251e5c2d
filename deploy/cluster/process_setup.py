"""The setup that the processes of all roles share: settings, task, threads, restart delays."""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from buffer.errors import TributaryError
from buffer.types import PolicySpec
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.death import LOGS, POINTS_ELSEWHERE, last_error_in_log
from deploy.cluster.root_cause import in_words
from deploy.config import RunConfig
from deploy.telemetry.logs import Log

if TYPE_CHECKING:
    from rewards.task import Task

MAX_RESTART_DELAY_S = 60.0
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Address:
    """Everything a process needs to find the others and to agree with them."""

    config: RunConfig
    spec: PolicySpec
    redis_url: str
    buffer_name: str
    task_name: str
    checkpoints: str
    """Folder of the learner's checkpoints, on a disk that its node shares with the driver's."""
    adapter_store: str
    """Name of the AdapterStore within the job. A name, not a handle: Ray can't restart a dead process whose arguments
    hold a handle once the handle's owner is gone."""


def portable_errors(start: Callable[P, R]) -> Callable[P, R]:
    """A constructor or `ready` of a process that raises TributaryErrors only: others become one, with type and text.

    Ray can't pass on every exception: some can't be pickled. The full traceback is in the process's log.
    """

    @functools.wraps(start)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return start(*args, **kwargs)
        except TributaryError:
            raise
        except Exception as error:
            process = start.__qualname__.split(".")[0].removesuffix("Process").lower()
            words = in_words(error)
            if POINTS_ELSEWHERE in words:
                words = last_error_in_log(os.getpid()) or f"{words} {LOGS}"
            raise TributaryError(f"the {process} process failed to start: {words}") from error

    return wrapped


def wait_after_deaths(store: AdapterStoreClient, name: str, log: Log) -> None:
    """Delay a process that has died before: 0, 1, 2, 4 ... s, at most MAX_RESTART_DELAY_S."""
    deaths = store.count_start(name)
    delay_s = min(2.0 ** (deaths - 2), MAX_RESTART_DELAY_S) if deaths > 1 else 0.0
    log.info("started", extra={"deaths": deaths, "pause_s": delay_s})
    time.sleep(delay_s)


def build_task(address: Address) -> "Task":
    """The recipe's task, with the base model's tokenizer."""
    from lm.tokens import load_tokenizer
    from rewards.task_registry import make_task

    folder = Path(address.spec.base_model)
    return make_task(address.config.task, load_tokenizer(folder), folder)


def bound_gpu_memory(gpus: float) -> None:
    """Keep this process's tensors within its share of a GPU; does nothing for a process on a CPU.

    Call it before anything is on the GPU. Segments that grow need less memory where every batch has another size.
    """
    if not gpus:
        return
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    if gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)


def set_threads(threads: int) -> None:
    """Set torch's CPU threads in the calling thread (0: leave unchanged)."""
    if threads:
        import torch

        torch.set_num_threads(threads)
