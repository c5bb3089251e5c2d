"""Every shipped recipe, and every value that a recipe may give, makes a configuration that the installed vLLM accepts.

Only vLLM's configuration is built: no engine, no weights. Kernels for GPUs are not reached. With the build for GPUs and
no GPU, `.venv-gpu/bin/python -m pytest tests/unit/test_engine_arguments.py` invents one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from actors.config import ActorConfig
from actors.engine import engine_settings
from buffer.types import PolicySpec
from deploy.config import ModelConfig, find_recipe, load_recipe
from lm.vllm import KERNEL_RANKS, engine_arguments, kernel_rank
from rewards.vllm_scorer import scorer_settings
from tests.support.pretended_gpu import pretend_gpu

RECIPES = sorted(path.stem for path in find_recipe("demo").parent.glob("*.toml"))
DTYPES = [name for name in get_args(ModelConfig.model_fields["dtype"].annotation) if name != "auto"]

NO_DRIVER = torch.version.cuda is not None and not torch.cuda.is_available()


@pytest.fixture(scope="module", autouse=True)
def _pretended_gpu() -> None:
    if NO_DRIVER:
        pretend_gpu()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig

    path = tmp_path_factory.mktemp("model")
    LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=2048, architectures=["LlamaForCausalLM"],
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture
def spec(folder: Path) -> PolicySpec:
    return PolicySpec(str(folder), "bfloat16", 16, 16, ("q_proj",), stop_token_id=2, max_actions=4)


def accepted(spec: PolicySpec, config: ActorConfig, on_gpu: bool) -> Any:
    """vLLM's configuration of an actor's engine."""
    from vllm import EngineArgs

    return EngineArgs(**engine_arguments(spec, on_gpu=on_gpu, seed=0, **engine_settings(config))).create_engine_config()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RECIPES)
def test_the_engine_of_every_recipe_is_accepted_in_every_number_format(name: str, dtype: str, spec: PolicySpec) -> None:
    recipe = load_recipe(name)
    model, actors = recipe.model, recipe.actors
    config = accepted(replace(spec, dtype=dtype, lora_rank=model.lora_rank), actors, actors.gpus > 0)
    assert str(config.model_config.dtype) == f"torch.{dtype}"
    assert config.cache_config.kv_cache_memory_bytes == actors.kv_cache_gib * 2**30
    assert (
        config.scheduler_config.max_num_batched_tokens >= config.scheduler_config.max_num_seqs == actors.max_in_flight
    )
    assert config.lora_config.max_lora_rank == kernel_rank(model.lora_rank)
    assert config.model_config.enforce_eager == (not actors.gpus)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_the_engine_of_a_scorer_is_accepted_for_every_recipe(name: str, on_gpu: bool, spec: PolicySpec) -> None:
    from vllm import EngineArgs

    actors = load_recipe(name).actors
    settings = scorer_settings(actors.max_model_len, actors.kv_cache_gib)
    arguments = engine_arguments(spec, on_gpu=on_gpu, seed=0, versions=0, tensor_parallel=1, **settings)
    config = EngineArgs(**arguments).create_engine_config()
    assert config.lora_config is None and config.model_config.max_logprobs == settings["log_probs"]


@pytest.mark.parametrize("rank", KERNEL_RANKS)
def test_every_rank_of_a_kernel_is_accepted(rank: int, spec: PolicySpec) -> None:
    assert accepted(replace(spec, lora_rank=rank), ActorConfig(), on_gpu=True).lora_config.max_lora_rank == rank


@pytest.mark.skipif(NO_DRIVER, reason="vLLM loads its kernels for this configuration")
def test_an_engine_may_be_spread_over_gpus_and_have_a_large_cache(spec: PolicySpec) -> None:
    config = accepted(spec, ActorConfig(tensor_parallel=2, gpus=1.0, kv_cache_gib=64), on_gpu=True)
    assert config.parallel_config.tensor_parallel_size == 2
    assert config.cache_config.kv_cache_memory_bytes == 64 * 2**30
    assert config.cache_config.gpu_memory_utilization < 0.05, "vLLM requires this share to be free next to the others"


def test_four_bits_are_a_plugin_of_vllm_that_the_check_asks_for(spec: PolicySpec) -> None:
    """Without it vLLM does not know the name; deploy/driver/check_machine.py refuses the recipe before that."""
    from importlib import metadata

    four_bits = replace(spec, quantization="nf4")
    try:
        metadata.version("vllm-bnb-plugin")
    except metadata.PackageNotFoundError:
        with pytest.raises(ValueError, match="Unknown quantization method: bitsandbytes"):
            accepted(four_bits, ActorConfig(), on_gpu=True)
    else:
        assert accepted(four_bits, ActorConfig(), on_gpu=True).model_config.quantization == "bitsandbytes"
