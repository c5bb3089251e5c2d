"""The memory plan: its arithmetic against measured peaks of real passes, and the plans of the shipped recipes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from buffer.errors import ConfigError, ModelError
from buffer.types import PolicySpec, Prompt, Trajectory, given_trajectory
from deploy.cli import app
from deploy.config import RunConfig, find_recipe, load_recipe
from deploy.driver import memory_arithmetic as arithmetic
from deploy.driver import memory_plan
from deploy.driver.memory_arithmetic import GIB, WIDTH, ModelShape
from deploy.driver.memory_plan import make_plan, model_shape
from deploy.driver.nvidia_gpus import Gpu
from learner.batch import collate
from learner.data_parallel import DataParallel
from learner.gradient import Gradient
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from lm.head import chunk_bytes
from rewards.base_model import BaseModel
from rewards.task import ScoreRequest
from tests.support.peak_memory import peak_bytes

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
PROMPT, RESPONSE = 16, 24


def llama(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool = True
) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": 8192, "tie_word_embeddings": tied,
    }  # fmt: skip


CONFIGS = {
    "smollm2-135m-instruct": llama(576, 1536, 30, 9, 3, 49152),
    "HuggingFaceTB/SmolLM2-1.7B": llama(2048, 8192, 24, 32, 32, 49152),
}
QWEN_7B = llama(3584, 18944, 28, 28, 4, 152064, tied=False)


def folder_of(config: Mapping[str, Any], folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def shape_of(folder: Path, dtype: str, rank: int, targets: tuple[str, ...]) -> tuple[RunConfig, ModelShape]:
    names = json.dumps(list(targets))
    config = load_recipe(
        "demo",
        [f"model.name={folder}", f"model.dtype={dtype}", f"model.lora_rank={rank}", f"model.lora_targets={names}"],
    )
    return config, model_shape(config, folder)


def rows(vocabulary: int, prompts: int, each: int) -> list[Trajectory]:
    """`each` random responses to each of some prompts, scored."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(prompts):
        prompt = Prompt(str(k), "", rng.integers(10, vocabulary, PROMPT).astype(np.int32))
        for _ in range(each):
            z = rng.integers(10, vocabulary, RESPONSE).astype(np.int32)
            made.append(given_trajectory(prompt, z, "x", rng.normal(size=(1, RESPONSE + 1)).astype(np.float32), ("t",)))
    return made


@pytest.fixture(scope="module", params=["small", "grouped"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of two shapes; in the second, four query heads share a key head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp(request.param)
    sizes = {"small": (256, 1024, 4, 4, 4, 512), "grouped": (384, 768, 6, 8, 2, 2000)}[request.param]
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**llama(*sizes))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "checkpointing", "targets"),
    [
        ("float32", False, ATTENTION),
        ("bfloat16", False, ATTENTION),
        ("bfloat16", True, ATTENTION),
        ("bfloat16", False, ALL_LINEAR),
    ],
)
def test_the_learners_peak_is_within_15_percent_of_a_measured_one(
    model: Path, dtype: str, checkpointing: bool, targets: tuple[str, ...]
) -> None:
    _, shape = shape_of(model, dtype, 16, targets)
    spec = PolicySpec(str(model), dtype, 16, 16, targets, stop_token_id=5, max_actions=RESPONSE + 1)
    policy = LoraPolicy(spec, torch.device("cpu"), checkpointing)
    batch = collate(rows(shape.vocabulary, 4, 5), spec)
    parameters = policy.trainable_parameters()
    optimiser = Optimiser(parameters, 0.0, 1.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step(0.0)  # makes the moments
    gradient = Gradient(policy, parameters, "group_subtb", 1.0, DataParallel())
    held = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    held += sum(t.numel() * t.element_size() for t in optimiser.tensors().values())
    measured = held + peak_bytes(lambda: gradient.compute(batch, 1.0))

    width, tokens = WIDTH[dtype], batch.tree_nodes
    planned = arithmetic.weights(shape, width) + arithmetic.optimiser(shape)
    planned += sum(arithmetic.learner_pass(shape, width, tokens, checkpointing, False, chunk_bytes(on_gpu=False)))
    assert abs(planned / measured - 1.0) < 0.15, f"planned {planned / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_scorers_peak_is_within_15_percent_of_a_measured_one(model: Path, dtype: str) -> None:
    _, shape = shape_of(model, dtype, 16, ATTENTION)
    spec = PolicySpec(str(model), dtype, 16, 16, ATTENTION, stop_token_id=5, max_actions=RESPONSE + 1)
    base = BaseModel(spec, torch.device("cpu"))
    given = rows(shape.vocabulary, 4, 5)
    requests = [ScoreRequest(row.prompt_token_ids) for row in given]
    measured = sum(p.numel() * p.element_size() for p in base._model.model.parameters())
    measured += peak_bytes(lambda: base.score(requests, [row.token_ids for row in given]))

    tokens = collate(given, spec).tree_nodes
    planned = arithmetic.weights(shape, WIDTH[dtype])
    planned += sum(arithmetic.scorer_pass(shape, WIDTH[dtype], tokens, chunk_bytes(on_gpu=False)))
    assert abs(planned / measured - 1.0) < 0.15, f"planned {planned / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB"


@pytest.mark.parametrize(
    ("config", "dtype", "rank", "measured_mb"),
    [
        (CONFIGS["smollm2-135m-instruct"], "bfloat16", 64, 0.88),
        (CONFIGS["HuggingFaceTB/SmolLM2-1.7B"], "bfloat16", 64, 2.81),
        (QWEN_7B, "bfloat16", 64, 6.47),
    ],
    ids=["135m", "1.7b", "7b"],
)
def test_activations_at_real_widths_are_those_counted_on_one_and_two_layers(
    config: Mapping[str, Any], dtype: str, rank: int, measured_mb: float, tmp_path: Path
) -> None:
    """MB a token that autograd keeps over all layers, counted with key heads repeated as on GPUs (docs/log.md)."""
    _, shape = shape_of(folder_of(config, tmp_path), dtype, rank, ATTENTION)
    planned_mb = shape.layers * arithmetic.kept_per_layer(shape, WIDTH[dtype], on_gpu=True) / 1e6
    assert planned_mb == pytest.approx(measured_mb, rel=0.05)


def test_sizes_come_from_config_json_alone(tmp_path: Path) -> None:
    _, shape = shape_of(folder_of(QWEN_7B, tmp_path), "bfloat16", 64, ATTENTION)
    assert shape.parameters == pytest.approx(7.6e9, rel=0.01)
    assert 4 * arithmetic.adapter_numbers(shape) == pytest.approx(161e6, rel=0.01)
    assert arithmetic.kv_bytes_per_token(shape, 2) == 2 * 28 * 4 * 128 * 2
    with pytest.raises(ConfigError, match=r"no config\.json"):
        model_shape(load_recipe("demo"), tmp_path / "missing")


def test_four_bits_leave_embeddings_as_they_are(tmp_path: Path) -> None:
    _, shape = shape_of(folder_of(QWEN_7B, tmp_path), "bfloat16", 64, ATTENTION)
    embeddings = 2 * 152064 * 3584
    assert shape.embeddings == embeddings
    assert arithmetic.weights(shape, 2, four_bits=True) > 2 * embeddings + (shape.parameters - embeddings) / 2


OPT = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 64, "ffn_dim": 192, "num_hidden_layers": 2,
    "num_attention_heads": 2, "vocab_size": 100, "word_embed_proj_dim": 64,
}  # fmt: skip
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("config", "mlp"), [(OPT, 192), (GPT2, 256), (GPT2 | {"n_inner": 96}, 96)], ids=["opt", "gpt2", "gpt2-narrow"]
)
def test_sizes_are_found_under_other_names(config: Mapping[str, Any], mlp: int, tmp_path: Path) -> None:
    recipe = load_recipe("demo", [f"model.name={folder_of(config, tmp_path)}", "actors.engine=simulated"])
    shape = model_shape(recipe, tmp_path)
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_size) == (64, 2, 2, 2, 32)
    assert shape.mlp == mlp and shape.adapted


AWQ = QWEN_7B | {"quantization_config": {"quant_method": "awq", "bits": 4}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GPT2, "vLLM has no LoRA"),
        ({"architectures": ["GPTJForCausalLM"], "model_type": "gptj"}, "attention code of its own"),
        ({"architectures": ["FalconForCausalLM"], "model_type": "falcon"}, "can't be"),
        (
            QWEN_7B | {"model_type": "invented", "architectures": ["InventedForCausalLM"]},
            "architecture that transformers does not",
        ),
        (QWEN_7B | {"hidden_size": "wide"}, "makes no language model"),
        (AWQ, r"quantised already .*awq"),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {"a": 1}},
            "more than",
        ),
    ],
    ids=["gpt2", "gptj", "falcon", "unknown", "broken", "awq", "gemma3"],
)
def test_a_model_that_a_run_refuses_gets_no_plan(config: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    arguments = ["validate", "continue-gpu", f"model.name={folder_of(config, tmp_path)}", "--plan"]
    refused = CliRunner().invoke(app, arguments).exception
    assert isinstance(refused, ConfigError | ModelError) and re.search(words, str(refused)), repr(refused)
    assert len(str(refused).splitlines()) == 1


def test_a_gpu_of_no_finite_size_is_refused(tmp_path: Path) -> None:
    arguments = ["validate", "demo-gpu", f"model.name={folder_of(QWEN_7B, tmp_path)}", "--plan", "--gpu-gib", "inf"]
    assert "--gpu-gib = inf is no size" in str(CliRunner().invoke(app, arguments).exception)


@pytest.mark.parametrize("name", [p.stem for p in find_recipe("demo").parent.glob("*-gpu.toml")])
def test_every_recipe_for_gpus_fits_on_one_of_80_gb(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    config = load_recipe(name, [f"model.name={folder_of(CONFIGS[recipe.model.name], tmp_path)}"])
    plan = make_plan(config, model_shape(config, tmp_path), gpus=1)
    assert plan.problems == [] and 0 < plan.used(0) < plan.card_bytes
    per_token = arithmetic.kv_bytes_per_token(model_shape(config, tmp_path), 2)
    in_flight = config.actors.max_in_flight * (config.policy.max_actions + 64)
    assert config.actors.kv_cache_gib * GIB > in_flight * per_token, "no response waits for room in the cache"


@pytest.mark.parametrize(("gpus", "places"), [(1, {0}), (2, {0}), (8, {0})])
def test_processes_that_share_a_gpu_leave_the_others_free(gpus: int, places: set[int], tmp_path: Path) -> None:
    config = load_recipe("demo-gpu", [f"model.name={folder_of(CONFIGS['smollm2-135m-instruct'], tmp_path)}"])
    plan = make_plan(config, model_shape(config, tmp_path), gpus)
    assert {gpu for of_process in plan.places for gpu in of_process} == places


def test_the_command_prints_the_plan_and_fails_where_it_does_not_fit(tmp_path: Path) -> None:
    arguments = ["validate", "continue-gpu", f"model.name={folder_of(QWEN_7B, tmp_path)}", "--plan"]
    done = CliRunner().invoke(app, [*arguments, "--gpus", "1"])
    assert done.exit_code == 1
    assert re.search(r"learner-0 needs \d+\.\d GiB, more than its share of 0\.4 x 79\.6 GiB", done.output)
    assert "7.62 billion weights in bfloat16" in done.output
    whole = ["actors.gpus=1.0", "rewards.gpus=0.4", "learner.gpus=0.6", "learner.gradient_checkpointing=true"]
    done = CliRunner().invoke(app, [*arguments, *whole, "--gpus", "2"])
    assert done.exit_code == 0, done.output
    assert "GPU 1" in done.output and "does not fit" not in done.output
    done = CliRunner().invoke(app, [*arguments, *whole, "--gpus", "1"])
    assert isinstance(done.exception, ConfigError) and "do not fit on 1 GPU" in str(done.exception)


def test_the_plan_is_for_the_smallest_gpu_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Gpu("H100", "81559 MiB", "580.1"), Gpu("L4", "23034 MiB", "580.1"), Gpu("GB10", "[N/A]", "580.1")]
    monkeypatch.setattr(memory_plan, "find_gpus", lambda: cards)
    arguments = [
        "validate",
        "demo-gpu",
        f"model.name={folder_of(CONFIGS['smollm2-135m-instruct'], tmp_path)}",
        "--plan",
    ]
    assert re.search(r"GPU 0: [\d.]+ of 22\.5 GiB", CliRunner().invoke(app, arguments).output)
    assert re.search(r"GPU 0: [\d.]+ of 40\.0 GiB", CliRunner().invoke(app, [*arguments, "--gpu-gib", "40"]).output)
    monkeypatch.setattr(memory_plan, "find_gpus", list)
    assert re.search(r"GPU 0: [\d.]+ of 79\.6 GiB", CliRunner().invoke(app, arguments).output)


MODELS = {
    "SmolLM2-135M": CONFIGS["smollm2-135m-instruct"],
    "SmolLM2-1.7B": CONFIGS["HuggingFaceTB/SmolLM2-1.7B"],
    "Qwen2.5-7B": QWEN_7B,
    "Qwen2.5-14B": llama(5120, 13824, 48, 40, 8, 152064, tied=False),
    "Qwen2.5-32B": llama(5120, 27648, 64, 40, 8, 152064, tied=False),
}
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (Path(__file__).parents[2] / "docs" / "gpu.md").read_text().splitlines()
    if line.endswith("planned |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_every_row_of_the_page_on_gpus_is_what_the_plan_computes(row: list[str], tmp_path: Path) -> None:
    model, gpus, settings, planned, _, _ = row
    overrides = settings.strip("`").split()
    config = load_recipe("continue-gpu", [f"model.name={folder_of(MODELS[model], tmp_path)}", *overrides])
    plan = make_plan(config, model_shape(config, tmp_path), int(gpus))
    assert plan.problems == []
    assert ", ".join(f"{plan.used(gpu) / GIB:.0f}" for gpu in range(plan.gpus)) == planned
