"""The GPUs that Ray gives to the processes of every recipe. The GPUs are invented: Ray counts them, nothing uses them."""

from collections.abc import Iterator

import pytest
import ray

from buffer.errors import ConfigError
from buffer.types import PolicySpec
from deploy.cluster import system
from deploy.cluster.placement import check_placement
from deploy.cluster.placement_shares import gpu_shares, place
from deploy.cluster.process_setup import Address
from deploy.cluster.system import System
from deploy.config import RunConfig, find_recipe, load_recipe
from tests.support.local_ray import GPUS, local_ray
from tests.support.placed_process import PlacedProcess
from tests.support.processes import until

pytestmark = pytest.mark.slow

RECIPES = sorted(path.stem for path in find_recipe("demo").parent.glob("*.toml"))
SPREAD = ("actors.tensor_parallel=2", "actors.gpus=1", "rewards.gpus=1", "learner.ranks=2", "learner.gpus=1")
"""Whole GPUs, as in docs/gpu.md."""
SPEC = PolicySpec("", "bfloat16", 1, 1, ("q_proj",), stop_token_id=0, max_actions=1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray() as patch:
        for name in ("ActorProcess", "RewardProcess", "LearnerProcess"):
            patch.setattr(system, name, PlacedProcess)
        yield


placed: dict[tuple[object, ...], list[list[int]]] = {}
"""Reservations -> GPUs of each process: many recipes reserve the same."""


def gpus_of_processes(config: RunConfig) -> list[list[int]]:
    """The GPUs of each process of a run, in the order of `gpu_shares`."""
    key = tuple(
        (len(roles), part.gpus, part.advanced.cpus, tuple(part.advanced.labels.items()))
        for roles, part in (
            ("w" * config.rewards.workers, config.rewards),
            ("a" * config.actors.count * config.actors.tensor_parallel, config.actors),
            ("l" * config.learner.ranks, config.learner),
        )
    )
    if key not in placed:
        run = System(config, Address(config, SPEC, "", "", "", "", adapter_store="adapter_store"))
        calls = [
            *run._rewards.calls,
            *run._actors.calls,
            *(learner.ready.remote() for learner in run._learners.handles),
        ]
        placed[key] = ray.get(calls, timeout=120)
        run.kill()
        until(lambda: ray.available_resources().get("GPU") == GPUS, 30, "release of the GPUs")
    return placed[key]


@pytest.mark.parametrize("name", [*RECIPES, "continue-gpu on whole GPUs"])
def test_every_process_gets_the_gpus_that_it_asks_for_and_shares_one_only_as_its_fraction_says(name: str) -> None:
    recipe, _, more = name.partition(" ")
    config = load_recipe(recipe, list(SPREAD) if more else [])
    check_placement(config)
    shares, gpus = gpu_shares(config), gpus_of_processes(config)
    assert [len(numbers) for numbers in gpus] == [spread if share else 0 for share, spread in shares]
    held = [sum(share for (share, _), own in zip(shares, gpus, strict=True) if k in own) for k in range(GPUS)]
    assert max(held) < 1 + 1e-6
    planned = place(shares, GPUS)
    assert planned is not None
    assert [tuple(own) for own in gpus] == planned, "`validate --plan` shows where Ray puts them"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["actors.tensor_parallel=8", "actors.gpus=1"], r"reserves 8\.6 GPUs and the cluster has 8"),
        (
            ["actors.tensor_parallel=5", "actors.gpus=1", "rewards.gpus=0.6", "rewards.workers=4"],
            r"a process of actors reserves 5 x 1 .*Nodes have 8 GPUs",
        ),
        (["actors.advanced.cpus=20"], r"reserves 21 CPUs and the cluster has 4"),
        (['actors.advanced.labels={role="actors"}'], r"no node of the cluster has them\. Start one with `ray start"),
    ],
)
def test_a_recipe_that_reserves_more_than_the_cluster_has_is_refused_with_the_reason(
    overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_placement(load_recipe("demo-gpu", overrides))
