"""`tributary validate RECIPE --plan`: the memory of each process and each GPU, before anything starts.

Only the model's config.json is read; its layers are built on torch's meta device, without weights. The arithmetic is in
deploy/driver/memory_arithmetic.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf, prod
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from actors.served_versions import MAX_VERSIONS
from buffer.errors import ConfigError, TributaryError
from deploy.cluster.placement_shares import place, shares_problem
from deploy.config import RunConfig
from deploy.driver import memory_arithmetic as arithmetic
from deploy.driver.check_engine import check_engine
from deploy.driver.check_model import EMBEDDINGS, ModelFiles, check_model, lora_targets
from deploy.driver.memory_arithmetic import GIB, WIDTH, ModelShape
from deploy.driver.nvidia_gpus import find_gpus
from deploy.models.model_json import read_model_json
from lm.vllm import BATCHED_TOKENS, kernel_rank

PARTS = ("weights", "adapters", "KV cache", "activations", "output", "optimiser", "CUDA")
CARD_GIB = 79.6
"""Memory of a GPU of 80 GB as its driver reports it, GiB."""


@dataclass(frozen=True, slots=True)
class Process:
    """The planned memory of one process."""

    name: str
    gpus: float
    """Share of a GPU; 0 on a CPU."""
    parts: dict[str, int]
    """Bytes by name of PARTS, on each of its GPUs."""
    spread: int = 1
    """GPUs over which it is spread."""

    @property
    def total(self) -> int:
        """Bytes on each of its GPUs."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """Processes, and the GPUs that each is placed on."""

    processes: Sequence[Process]
    places: Sequence[Sequence[int]]
    """Per process its GPUs by number; none for a process on a CPU."""
    gpus: int
    card_bytes: int
    problems: list[str] = field(default_factory=list)
    """What does not fit, as sentences."""

    def used(self, gpu: int) -> int:
        """Bytes planned on a GPU."""
        return sum(p.total for p, places in zip(self.processes, self.places, strict=True) if gpu in places)


def make_plan(config: RunConfig, shape: ModelShape, gpus: int | None = None, card_gib: float = CARD_GIB) -> Plan:
    """The plan on `gpus` GPUs of `card_gib` GiB; by default on as few as the shares of the recipe take.

    ConfigError where the shares do not fit on them, or where that is no size.
    """
    if not 0 < card_gib < inf:
        raise ConfigError(f"--gpu-gib = {card_gib:g} is no size of a GPU. Give its memory in GiB, such as 79.6.")
    processes = planned_processes(config, shape)
    shares = [(process.gpus, process.spread) for process in processes]
    needed = ceil(sum(share * spread for share, spread in shares) - 1e-6)
    available = needed if gpus is None else gpus
    places = place(shares, available)
    while places is None and gpus is None:  # shares such as 0.6, 0.6, 0.6 leave gaps
        available += 1
        places = place(shares, available)
    if places is None:
        raise ConfigError(shares_problem(config, available) or "")
    plan = Plan(processes, places, available, int(card_gib * GIB))
    for process in processes:
        limit = process.gpus * plan.card_bytes
        if process.gpus and process.total > limit:
            plan.problems.append(
                f"{process.name} needs {process.total / GIB:.1f} GiB, more than its share of {process.gpus:g} x "
                f"{card_gib:g} GiB = {limit / GIB:.1f} GiB."
            )
    return plan


def card_gib() -> float:
    """GiB of the smallest GPU of this machine; those of a card of 80 GB where there is none."""
    sizes = [gpu.memory_bytes / GIB for gpu in find_gpus() if gpu.memory_bytes is not None]
    return min(sizes, default=CARD_GIB)


def planned_processes(config: RunConfig, shape: ModelShape) -> list[Process]:
    """All processes with a model, in the order in which Ray places them."""
    count = config.rewards.workers
    rewards = [Process(f"reward-{k}", config.rewards.gpus, _reward(config, shape)) for k in range(count)]
    spread, count = config.actors.tensor_parallel, config.actors.count
    actors = [Process(f"actor-{k}", config.actors.gpus, _actor(config, shape), spread) for k in range(count)]
    count = config.learner.ranks
    learner = [Process(f"learner-{k}", config.learner.gpus, _learner(config, shape), 1) for k in range(count)]
    return [*rewards, *([] if config.actors.engine == "simulated" else actors), *learner]


def _actor(config: RunConfig, shape: ModelShape) -> dict[str, int]:
    actors, width, spread = config.actors, WIDTH[config.model.dtype], config.actors.tensor_parallel
    on_gpu, tokens = actors.gpus > 0, max(BATCHED_TOKENS, actors.max_in_flight)
    return _parts(
        arithmetic.weights(shape, width, config.model.quantization == "nf4") // spread,
        arithmetic.engine_adapters(shape, width, MAX_VERSIONS, kernel_rank(shape.rank)),
        actors.kv_cache_gib * GIB,
        arithmetic.engine_step(shape, width, tokens, actors.max_in_flight),
        cuda=(arithmetic.CUDA_BYTES + arithmetic.ENGINE_BYTES) * on_gpu,
    )


def _reward(config: RunConfig, shape: ModelShape) -> dict[str, int]:
    from lm.head import chunk_bytes
    from rewards.base_model import pass_tokens
    from rewards.vllm_scorer import MAX_REQUESTS

    rewards, width = config.rewards, WIDTH[config.model.dtype]
    on_gpu, base = rewards.gpus > 0, arithmetic.weights(shape, width)
    if rewards.scorer == "vllm":
        step = arithmetic.engine_step(shape, width, BATCHED_TOKENS, MAX_REQUESTS)
        cuda = (arithmetic.CUDA_BYTES + arithmetic.ENGINE_BYTES) * on_gpu
        return _parts(base, 0, config.actors.kv_cache_gib * GIB, step, cuda=cuda)
    tokens = pass_tokens(rewards.max_tokens, on_gpu)
    activations, output = arithmetic.scorer_pass(shape, width, tokens, chunk_bytes(on_gpu))
    return _parts(base, activations=activations, output=output, cuda=arithmetic.CUDA_BYTES * on_gpu)


def _learner(config: RunConfig, shape: ModelShape) -> dict[str, int]:
    from lm.head import chunk_bytes

    learner, width, on_gpu = config.learner, WIDTH[config.model.dtype], config.learner.gpus > 0
    longest = learner.batch_size // learner.ranks * config.actors.max_model_len
    tokens = min(learner.max_tokens or longest, longest)
    checkpointing, chunk = learner.gradient_checkpointing, chunk_bytes(on_gpu)
    activations, output = arithmetic.learner_pass(shape, width, tokens, checkpointing, on_gpu, chunk)
    return _parts(
        arithmetic.weights(shape, width, config.model.quantization == "nf4"),
        activations=activations,
        output=output,
        optimiser=arithmetic.optimiser(shape),
        cuda=arithmetic.CUDA_BYTES * on_gpu,
    )


def _parts(
    weights: int, adapters: int = 0, kv: int = 0, activations: int = 0, output: int = 0, optimiser: int = 0,
    cuda: int = 0,
) -> dict[str, int]:  # fmt: skip
    return dict(zip(PARTS, (weights, adapters, kv, activations, output, optimiser, cuda), strict=True))


def model_shape(config: RunConfig, folder: Path) -> ModelShape:
    """The sizes of the model of a folder with a config.json, and of the recipe's adapter on it.

    ConfigError where the folder has none, where a run would refuse the model, or where the recipe's LoRA targets are
    not among its layers.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} has no config.json, from which the plan is computed. Name a folder that has one.")
    stored = read_model_json(folder / "config.json")
    check_model(config, ModelFiles(stored, {}))
    check_engine(config, stored)
    text, shapes = _empty_model(config.model.name, folder)
    files = ModelFiles(stored, shapes)
    targets = set(lora_targets(config.model, files))
    heads, experts = text.num_attention_heads, getattr(text, "num_experts_per_tok", None)
    wide = _mlp_width(text)
    adapted = [shape for name, shape in shapes.items() if name.split(".")[-2] in targets and len(shape) == 2]
    return ModelShape(
        parameters=sum(map(prod, shapes.values())),
        embeddings=sum(prod(s) for n, s in shapes.items() if n.split(".")[-2] in EMBEDDINGS),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=(getattr(text, "moe_intermediate_size", None) or wide) * experts if experts else wide,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        adapted=tuple((inputs, outputs) for outputs, inputs in adapted),
        rank=config.model.lora_rank,
    )


def _empty_model(name: str, folder: Path) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """The settings of the language model, and the shapes of its weights, shared ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lm.from_folder import empty_model, load_settings

    try:
        settings = load_settings(AutoConfig, folder)
        with torch.device("meta"):
            model = empty_model(AutoModelForCausalLM, settings)
    except TributaryError:
        raise
    except Exception as error:  # classes of many kinds, by what is wrong in config.json
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{name}: transformers makes no language model of its config.json: {reason}") from error
    return settings.get_text_config(), {n: tuple(tensor.shape) for n, tensor in model.named_parameters()}


def _mlp_width(text: Any) -> int:
    """Width of the MLP, by the name that the model type has for it; four times the hidden size where it is not set."""
    names = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
    return int(next((size for name in names if (size := getattr(text, name, None))), 4 * text.hidden_size))


def show_plan(plan: Plan, config: RunConfig, shape: ModelShape, console: Console) -> None:
    """Print the plan: a row per process, a line per GPU, and what does not fit."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("process", "on", *PARTS, "sum", "share"):
        table.add_column(column, justify="left" if column in ("process", "on") else "right", no_wrap=True)
    for process, places in zip(plan.processes, plan.places, strict=True):
        on = "GPU " + "+".join(map(str, places)) if places else "CPU"
        parts = [_gib(process.parts[part]) for part in PARTS]
        share = _gib(int(process.gpus * plan.card_bytes)) if places else "-"
        table.add_row(process.name, on, *parts, _gib(process.total), share)
    console.print(
        f"{config.model.name}: {shape.parameters / 1e9:.3g} billion weights in {config.model.dtype}, "
        f"{arithmetic.adapter_numbers(shape) / 1e6:.3g} million numbers in its adapter. Peaks in GiB, computed, not "
        f"measured; a pass has learner.max_tokens = {config.learner.max_tokens} tokens, and smaller batches take less.",
        soft_wrap=True,
    )
    console.print(table)
    for gpu in range(plan.gpus):
        console.print(f"GPU {gpu}: {_gib(plan.used(gpu))} of {_gib(plan.card_bytes)} GiB")
    if on_cpu := sum(p.total for p, places in zip(plan.processes, plan.places, strict=True) if not places):
        console.print(f"CPU: {_gib(on_cpu)} GiB")
    per_token = arithmetic.kv_bytes_per_token(shape, WIDTH[config.model.dtype])
    console.print(
        f"actors.kv_cache_gib holds {config.actors.kv_cache_gib * GIB // per_token:,} tokens of an engine with up to "
        f"{config.actors.max_in_flight} responses of {config.policy.max_actions} tokens, and their prompts.",
        soft_wrap=True,
    )
    for problem in plan.problems:
        console.print(f"[red bold]does not fit[/red bold]: {problem}", soft_wrap=True)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB // 10 or not size else f"{size / GIB:.2f}"
