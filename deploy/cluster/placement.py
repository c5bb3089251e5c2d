"""Ray start-up, and placement: the resources and node labels that each process reserves."""

import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
from ray.job_config import JobConfig

from actors.config import ActorConfig
from buffer.errors import ConfigError, TributaryError
from deploy import ROOT
from deploy.cluster.placement_shares import ROUNDING, Node, cluster_problem, written
from deploy.cluster.ray_calls import Handle
from deploy.cluster.ray_folder import make_ray_folder, ray_folder
from deploy.config import RunConfig
from learner.config import LearnerConfig
from rewards.config import RewardConfig

LOCAL_TRIES = 3
"""Attempts to start Ray on this machine: it gives a node's agent 15 s to report its port, too few on a busy machine
(2.60; there is no setting)."""


class _WorkerPath(list[str]):
    """The folders that a worker process puts in front of its import path, one by one, so that the last one is first.

    ray.init adds the working folder, where a person may well have a deploy.py: Tributary's packages come before it.
    """

    def extend(self, folders: Iterable[str]) -> None:
        """Add `folders`, and the folder of Tributary's packages again."""
        super().extend([*folders, str(ROOT)])


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), else start Ray on this machine for this run only."""
    _start_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray() -> None:
    if ray.is_initialized():
        raise TributaryError(
            "Ray already runs in this process, and a run starts and ends its own. Call ray.shutdown() first; to use a "
            "cluster, set RAY_ADDRESS before."
        )
    logging.getLogger("ray").setLevel(logging.ERROR)  # at every start Ray logs that token authentication is on
    # Ray 2.60 prints the messages of calls that end with the run to the driver's terminal, and has no setting for it
    ray._private.worker.print_to_stdstream = lambda *lines, **more: None
    address = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {}
    if not address:
        local = {"address": "local", "include_dashboard": False, "_temp_dir": str(make_ray_folder())}
    try:
        _init_ray(local, tries=1 if address else LOCAL_TRIES)
    except Exception as error:  # Ray raises several unrelated classes here
        where = (
            f"the cluster at RAY_ADDRESS = {address} can't be joined"
            if address
            else "Ray did not start on this machine"
        )
        raise TributaryError(
            f"{where}: {error}. On a loaded machine try again; otherwise read the logs in the newest folder under "
            f"{ray_folder()}, and run `tributary doctor`."
        ) from error


def _init_ray(local: dict[str, Any], tries: int) -> None:
    earlier = set(psutil.Process().children(recursive=True))
    try:
        with own_sigterm_handler():
            job = JobConfig(_py_driver_sys_path=_WorkerPath([str(ROOT)]))
            ray.init(log_to_driver=False, logging_level="error", job_config=job, **local)
    except Exception:
        ray.shutdown()
        if tries == 1:
            raise
        _end_rest(local["_temp_dir"], earlier)
        _init_ray(local, tries - 1)


def _end_rest(folder: str, earlier: set[psutil.Process]) -> None:
    """Kill what is left of a node that did not start in time: Ray itself ends only one that it had registered."""
    for process in set(psutil.Process().children(recursive=True)) - earlier:
        with suppress(psutil.NoSuchProcess):
            if any(folder in word for word in process.cmdline()):
                process.kill()


@contextmanager
def own_sigterm_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, which ray.init replaces by `sys.exit`; it gets a signal that came meanwhile."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def check_placement(config: RunConfig) -> None:
    """Raise ConfigError where the recipe reserves more than the cluster has: Ray would wait for ever, silently."""
    available = ray.cluster_resources()
    actors, rewards, learner = config.actors, config.rewards, config.learner
    cpus = (
        actors.count * actors.advanced.cpus
        + rewards.workers * rewards.advanced.cpus
        + learner.ranks * learner.advanced.cpus
    )
    gpus = actors.count * actors.tensor_parallel * actors.gpus + rewards.workers * rewards.gpus
    gpus += learner.ranks * learner.gpus
    for setting, resource, reserved in (("advanced.cpus", "CPU", cpus), ("gpus", "GPU", gpus)):
        if reserved > available.get(resource, 0.0) + ROUNDING:
            raise ConfigError(
                f"the recipe reserves {reserved:g} {resource}s and the cluster has {available.get(resource, 0.0):g}. "
                f"Lower actors.count or {setting} of actors, rewards and learner, or add machines."
            )
    alive = [node for node in ray.nodes() if node["Alive"]]
    for section, part in (("actors", actors), ("rewards", rewards), ("learner", learner)):
        labels = part.advanced.labels
        if labels and not any(labels.items() <= node["Labels"].items() for node in alive):
            raise ConfigError(
                f"{section}.advanced.labels requires a node with {written(labels)}, and no node of the cluster has "
                f"them. Start one with `ray start --labels {written(labels)}`, or correct {section}.advanced.labels."
            )
    nodes = [Node(int(node["Resources"].get("GPU", 0)), node["Labels"]) for node in alive]
    if problem := cluster_problem(config, nodes):
        raise ConfigError(problem)


def remote(process: type, config: ActorConfig | RewardConfig | LearnerConfig, **options: Any) -> Handle:
    """`process` as a Ray actor class that reserves the resources and labels of its section of the recipe."""
    labels = {"label_selector": dict(config.advanced.labels)} if config.advanced.labels else {}
    reserved = {"num_cpus": config.advanced.cpus, "num_gpus": config.gpus}
    return ray.remote(process).options(**(reserved | labels | options))


def free_now() -> str:
    """The cluster's unreserved resources, in words."""
    free = ray.available_resources()
    return f"free now: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
