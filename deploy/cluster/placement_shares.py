"""Where Ray puts processes that reserve shares of GPUs. Ray is not imported: checks before a run use this, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.config import RunConfig

ROUNDING = 1e-6
"""Shares such as 3 x 0.2 + 0.3 + 0.1 add up to a little more than 1 in floating point."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a cluster."""

    gpus: int
    labels: Mapping[str, str] = field(default_factory=dict)


def gpu_shares(config: RunConfig) -> list[tuple[float, int]]:
    """(share, GPUs over which it is spread) of each process, in the order in which they start."""
    actors, rewards, learner = config.actors, config.rewards, config.learner
    return [
        *[(rewards.gpus, 1)] * rewards.workers,
        *[(actors.gpus, actors.tensor_parallel)] * actors.count,
        *[(learner.gpus, 1)] * learner.ranks,
    ]


def place(shares: Sequence[tuple[float, int]], gpus: int) -> list[tuple[int, ...]] | None:
    """The GPUs of each process, in order; None where one finds no room. A process with share 0 takes none.

    Ray fills a GPU that is in use before it takes the next.
    """
    free = [1.0] * gpus
    places: list[tuple[int, ...]] = []
    for share, spread in shares:
        fits = [k for k in range(gpus) if free[k] >= share - ROUNDING]
        chosen = tuple(sorted(fits, key=lambda k: (free[k], k))[:spread]) if share else ()
        if share and len(chosen) < spread:
            return None
        for k in chosen:
            free[k] -= share
        places.append(chosen)
    return places


def shares_problem(config: RunConfig, gpus: int) -> str | None:
    """The reason why the processes do not fit on `gpus` GPUs, with the fix; None where they do."""
    actors, rewards, learner = config.actors, config.rewards, config.learner
    if place(gpu_shares(config), gpus) is not None:
        return None
    return (
        f"{rewards.workers} reward worker(s) with {rewards.gpus:g} GPUs each, {actors.count} actor(s) with "
        f"{actors.tensor_parallel} x {actors.gpus:g} and {learner.ranks} learner rank(s) with {learner.gpus:g} do not "
        f"fit on {gpus} GPU(s): the shares on one GPU may add up to 1. Lower the shares or the numbers of processes, "
        "or add GPUs."
    )


def cluster_problem(config: RunConfig, nodes: Sequence[Node]) -> str | None:
    """As `shares_problem`, where a process has all its GPUs on one node, which has the labels that it requires.

    The fullest node with room takes the next process.
    """
    actors, rewards, learner = config.actors, config.rewards, config.learner
    sections = ["rewards"] * rewards.workers + ["actors"] * actors.count + ["learner"] * learner.ranks
    held: list[list[tuple[float, int]]] = [[] for _ in nodes]
    for section, share in zip(sections, gpu_shares(config), strict=True):
        labels = getattr(config, section).advanced.labels
        matching = [k for k, node in enumerate(nodes) if labels.items() <= node.labels.items()]
        room = [k for k in matching if place([*held[k], share], nodes[k].gpus) is not None]
        if not room:
            where = f" with {written(labels)}" if labels else ""
            return (
                f"a process of {section} reserves {share[1]} x {share[0]:g} GPUs of one node. Nodes{where} have "
                f"{', '.join(str(nodes[k].gpus) for k in matching)} GPUs, and next to the processes that start before "
                "it none has room: the shares on one GPU may add up to 1. Lower the shares or the numbers of "
                "processes, or add GPUs."
            )
        held[max(room, key=lambda k: sum(gpus * spread for gpus, spread in held[k]))].append(share)
    return None


def written(labels: Mapping[str, str]) -> str:
    """Labels as `ray start --labels` takes them."""
    return ",".join(f"{name}={value}" for name, value in labels.items())
