"""Ray: join a cluster or start one here, and say where a process may run."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from actors.config import ActorConfig
from buffer.errors import ConfigError, TributaryError
from deploy.config import RunConfig
from learner.config import LearnerConfig
from rewards.config import RewardConfig


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (set under `ray job submit`), else start Ray here, for this run only."""
    _start_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray says at every start that its token authentication is on
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="error", **local)
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        where = (
            f"the cluster at RAY_ADDRESS = {address} can't be joined"
            if address
            else "Ray did not start on this machine"
        )
        raise TributaryError(
            f"{where}: {error}. On a loaded machine try again; else see the newest folder under /tmp/ray, "
            "and `tributary doctor`."
        ) from error


def check_placement(config: RunConfig) -> None:
    """Raise ConfigError where the cluster has not what the recipe reserves: Ray would wait for ever, silently."""
    have = ray.cluster_resources()
    for kind, resource in (("cpus", "CPU"), ("gpus", "GPU")):
        engines = config.actors.count * (config.actors.tensor_parallel if kind == "gpus" else 1)
        need = (
            engines * _reserved(config.actors, kind)
            + config.rewards.workers * _reserved(config.rewards, kind)
            + config.learner.ranks * _reserved(config.learner, kind)
        )
        if need > have.get(resource, 0.0):
            raise ConfigError(
                f"the recipe reserves {need:g} {resource}s and the cluster has {have.get(resource, 0.0):g}. "
                f"Lower actors.count, or the {'advanced.cpus' if kind == 'cpus' else kind} of actors, rewards and "
                "learner, or add machines."
            )
    nodes = [node["Labels"] for node in ray.nodes() if node["Alive"]]
    for section, part in (("actors", config.actors), ("rewards", config.rewards), ("learner", config.learner)):
        if part.advanced.labels and not any(part.advanced.labels.items() <= labels.items() for labels in nodes):
            wanted = ", ".join(f"{name}={value}" for name, value in part.advanced.labels.items())
            raise ConfigError(
                f"{section}.advanced.labels wants a node with {wanted}, and no node of the cluster has it. Start one "
                f"with `ray start --labels {wanted}`, or mend the labels."
            )


def _reserved(part: ActorConfig | RewardConfig | LearnerConfig, kind: str) -> float:
    return part.advanced.cpus if kind == "cpus" else part.gpus


def remote(process: type, config: ActorConfig | RewardConfig | LearnerConfig, **options: Any) -> Any:
    """`process` as a Ray actor class, with what its section of the recipe reserves."""
    labels = {"label_selector": dict(config.advanced.labels)} if config.advanced.labels else {}
    return ray.remote(process).options(num_cpus=config.advanced.cpus, num_gpus=config.gpus, **labels, **options)


def free_now() -> str:
    """What nobody has reserved, in words."""
    free = ray.available_resources()
    return f"free now: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
