"""Checks of what vLLM refuses at its start: an engine that GPUs can't share, a cache without room for one request."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from buffer.errors import ConfigError
from deploy.config import RunConfig
from deploy.driver.memory_arithmetic import GIB, WIDTH
from lm.architectures import text_config
from lm.vllm import BATCHED_TOKENS

BLOCK_TOKENS = {"cpu": 128, "gpu": 16}
"""Tokens in a block of vLLM's cache (0.32)."""


def check_engine(config: RunConfig, model: Mapping[str, Any]) -> None:
    """ConfigError where vLLM would refuse to start an engine of the run for the model with this config.json."""
    text = text_config(model)
    if config.actors.engine == "vllm":
        _check_split(config, text)
        _check_cache(config, text, config.actors.tensor_parallel, config.actors.gpus > 0)
    if config.rewards.scorer == "vllm":
        _check_cache(config, text, 1, config.rewards.gpus > 0)


def _check_split(config: RunConfig, text: Mapping[str, Any]) -> None:
    """Each GPU gets whole heads and an equal part of the MLP. With fewer key heads than GPUs, they are copied."""
    spread = config.actors.tensor_parallel
    heads, keys = text.get("num_attention_heads"), text.get("num_key_value_heads")
    wrong = [(name, text.get(name)) for name in ("num_attention_heads", "intermediate_size")]
    wrong = [(name, size) for name, size in wrong if isinstance(size, int) and size % spread]
    if isinstance(keys, int) and keys != heads and max(keys, spread) % min(keys, spread):
        wrong.append(("num_key_value_heads", keys))
    if wrong:
        name, size = wrong[0]
        raise ConfigError(
            f"actors.tensor_parallel = {spread} can't divide {config.model.name}, which has {name} = {size} "
            "(config.json). Set it to a divisor of that."
        )


def _check_cache(config: RunConfig, text: Mapping[str, Any], spread: int, on_gpu: bool) -> None:
    """As vllm/v1/core/kv_cache_utils.py: one request of the largest length, and a block that is never used."""
    heads, hidden, layers = (text.get(n) for n in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    if not (isinstance(heads, int) and isinstance(hidden, int) and isinstance(layers, int)):
        return
    keys, block = text.get("num_key_value_heads") or heads, BLOCK_TOKENS["gpu" if on_gpu else "cpu"]
    head = text.get("head_dim") or hidden // heads
    block_bytes = 2 * block * max(keys // spread, 1) * head * WIDTH[config.model.dtype]
    length, cache = config.actors.max_model_len, config.actors.kv_cache_gib
    windows = list(text.get("layer_types") or ()).count("sliding_attention") if text.get("sliding_window") else 0
    window = min(length, (text.get("sliding_window") or 0) + BATCHED_TOKENS)
    needed = (layers - windows) * (ceil(length / block) + 1) + windows * (ceil(window / block) + 1)
    if needed * block_bytes > cache * GIB:
        raise ConfigError(
            f"actors.kv_cache_gib = {cache} has no room for one request of actors.max_model_len = {length} tokens, "
            f"which takes {needed * block_bytes / GIB:.2f} GiB of {config.model.name}. Raise it, or lower the length."
        )
