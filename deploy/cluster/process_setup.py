"""The setup that the processes of all roles share: settings, task, threads, restart delays."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import ray

from buffer.errors import ConfigError, TributaryError
from buffer.types import PolicySpec
from deploy.cluster.adapter_store import AdapterStoreClient
from deploy.cluster.crash_loop import restart_delay_s
from deploy.cluster.death import LOGS, POINTS_ELSEWHERE, last_error_in_log
from deploy.cluster.root_cause import in_words
from deploy.config import RunConfig
from deploy.telemetry.logs import Log

if TYPE_CHECKING:
    from rewards.task import Task

MAX_WORDS = 500
"""Length of the error that is told of a dead process, characters."""
P = ParamSpec("P")
Q = ParamSpec("Q")
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
    release: str = field(default_factory=lambda: version("tributary"))
    """The driver's release."""


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


class KeepsDying(TributaryError):
    """A process that has used up its restarts. Ray starts no process again whose constructor raises."""


def restarted_after_errors(start: Callable[Q, None]) -> Callable[Q, None]:
    """A constructor that ends its process where it fails at a restart: the budget of restarts decides how often.

    The first start raises, since a wrong recipe fails in the same way each time.
    """

    @functools.wraps(start)
    def wrapped(*args: Q.args, **kwargs: Q.kwargs) -> None:
        try:
            start(*args, **kwargs)
        except KeepsDying:
            raise
        except TributaryError as error:
            if not ray.get_runtime_context().was_current_actor_reconstructed:
                raise
            _, number, address = args
            assert isinstance(address, Address)
            role = start.__qualname__.split(".")[0].removesuffix("Process").lower()
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                store = AdapterStoreClient(ray.get_actor(address.adapter_store))
                store.keep_last_words(f"{role}-{number}", str(error)[:MAX_WORDS])
            os._exit(1)

    return wrapped


def wait_after_deaths(store: AdapterStoreClient, name: str, max_restarts: int, log: Log) -> None:
    """Delay a process that dies again and again soon after its start. The adapter store counts; its own death forgets.

    Raise KeepsDying where it has died more than `max_restarts` times within an hour, or in a row.
    """
    deaths = store.count_start(name)
    if deaths.recent > max_restarts:
        setting = f"{name.split('-')[0]}s.advanced.max_restarts = {max_restarts}"
        raise KeepsDying(
            f"{name} died {deaths.recent} times within an hour or in a row, more often than {setting} allows. "
            f"If no error of its own says why, memory may be short (see `dmesg`). {LOGS}"
        )
    delay_s = restart_delay_s(deaths)
    log.info("started", extra={"deaths": deaths.recent, "pause_s": delay_s})
    time.sleep(delay_s)


def build_task(address: Address) -> "Task":
    """The recipe's task, with the base model's tokenizer. ConfigError where the node has another release than the
    driver: the two would not mean the same by a setting or a message."""
    if (here := version("tributary")) != address.release:
        raise ConfigError(
            f"node {ray.util.get_node_ip_address()} has tributary {here}, and the driver {address.release}. Install "
            "the driver's release on every node."
        )
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
