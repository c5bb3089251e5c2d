"""The frozen model that scores a task's requests, on the engine and the device that a recipe names."""

from pathlib import Path

from buffer.types import PolicySpec
from rewards.config import RewardConfig
from rewards.scorer import BaseScorer


def load_scorer(spec: PolicySpec, config: RewardConfig, max_model_len: int, kv_cache_gib: int) -> BaseScorer:
    """`max_model_len` [tokens] and `kv_cache_gib` [GiB] are those of the actors' engines."""
    if config.scorer == "vllm":
        from rewards.vllm_scorer import VllmScorer

        return VllmScorer(
            spec,
            on_gpu=config.gpus > 0,
            max_model_len=max_model_len,
            kv_cache_gib=kv_cache_gib,
            threads=config.threads,
        )
    from lm.load import device_of
    from rewards.base_model import BaseModel

    adapter = None if config.adapter is None else Path(config.adapter)
    return BaseModel(spec, device_of(config.device, config.gpus), config.max_tokens, adapter)
