"""What vLLM refuses at its start is refused before it: GPUs that can't share an engine, too small a cache."""

from pathlib import Path
from typing import Any

import pytest

from buffer.errors import ConfigError
from deploy.config import RunConfig, load_recipe
from deploy.driver.check_engine import check_engine

HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336}
LLAMA_8B = {"model_type": "llama", "num_hidden_layers": 32, **HEADS}


def recipe(*overrides: str) -> RunConfig:
    return load_recipe("demo-gpu", ["actors.gpus=1.0", *overrides])


@pytest.mark.parametrize(
    ("model", "spread", "words"),
    [
        (LLAMA_8B, 8, None),
        (LLAMA_8B, 16, None),
        (LLAMA_8B, 3, "num_attention_heads = 32"),
        (LLAMA_8B | {"num_attention_heads": 36, "num_key_value_heads": 9}, 4, "num_key_value_heads = 9"),
        (LLAMA_8B | {"intermediate_size": 14337}, 2, "intermediate_size = 14337"),
        ({"text_config": LLAMA_8B}, 3, "num_attention_heads = 32"),
        ({}, 3, None),
    ],
)
def test_an_engine_is_spread_over_gpus_that_divide_its_heads(
    model: dict[str, Any], spread: int, words: str | None
) -> None:
    config = recipe(f"actors.tensor_parallel={spread}")
    if words is None:
        check_engine(config, model)
        return
    with pytest.raises(ConfigError, match=rf"actors\.tensor_parallel = {spread} can't divide .* {words}"):
        check_engine(config, model)
    check_engine(recipe(f"actors.tensor_parallel={spread}", "actors.engine=simulated"), model)


def test_a_cache_holds_one_request_of_the_largest_length_and_a_block() -> None:
    """Llama of 8B in bfloat16 has 128 KiB a token: 8,192 tokens are 1 GiB, of which one block of 16 is not used."""
    check_engine(recipe("actors.kv_cache_gib=1", "actors.max_model_len=8176"), LLAMA_8B)
    with pytest.raises(ConfigError, match=r"kv_cache_gib = 1 has no room .*max_model_len = 8177 tokens.* 1\.00 GiB"):
        check_engine(recipe("actors.kv_cache_gib=1", "actors.max_model_len=8177"), LLAMA_8B)
    check_engine(recipe("actors.kv_cache_gib=1", "actors.max_model_len=8177", "actors.tensor_parallel=2"), LLAMA_8B)
    with pytest.raises(ConfigError, match="kv_cache_gib"):  # the scorer's engine has the same settings on one GPU
        spread = recipe(
            "actors.max_model_len=8177", "actors.kv_cache_gib=1", "actors.tensor_parallel=2", "rewards.scorer=vllm"
        )
        check_engine(spread, LLAMA_8B)


def test_layers_with_a_window_need_no_more_than_that() -> None:
    windows = LLAMA_8B | {"sliding_window": 1024, "layer_types": ["sliding_attention"] * 31 + ["full_attention"]}
    check_engine(recipe("actors.kv_cache_gib=1", "actors.max_model_len=8192"), windows)


@pytest.mark.parametrize(("length", "fits"), [(1792, True), (1920, True), (1921, False)])
def test_the_installed_vllm_agrees_on_the_smallest_cache(length: int, fits: bool, tmp_path: Path) -> None:
    """Its own check, on CPUs, of a model with 512 KiB a token: 1 GiB is 16 blocks of 128, one of which is not used."""
    import torch
    from transformers import LlamaConfig
    from vllm import EngineArgs
    from vllm.v1.core.kv_cache_utils import check_enough_kv_cache_memory
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    sizes = {"num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 4096, "num_hidden_layers": 32}
    LlamaConfig(architectures=["LlamaForCausalLM"], max_position_embeddings=4096, **sizes).save_pretrained(tmp_path)
    engine = EngineArgs(
        str(tmp_path), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=length, enforce_eager=True
    ).create_engine_config()
    engine.cache_config.kv_cache_layout = "LBNHC"  # chosen when a worker starts
    block = engine.cache_config.block_size
    layer = FullAttentionSpec(block_size=block, num_kv_heads=32, head_size=128, dtype=torch.bfloat16)
    config = load_recipe("demo", [f"actors.max_model_len={length}", "model.dtype=bfloat16"])
    if fits:
        check_enough_kv_cache_memory(engine, {f"{k}": layer for k in range(32)}, 2**30)
        check_engine(config, sizes)
        return
    with pytest.raises(ValueError, match="at least one request"):
        check_enough_kv_cache_memory(engine, {f"{k}": layer for k in range(32)}, 2**30)
    with pytest.raises(ConfigError, match=r"actors\.kv_cache_gib = 1 has no room"):
        check_engine(config, sizes)
