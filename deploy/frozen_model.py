"""The frozen model that answers a task's questions, on the device that a recipe names."""

from pathlib import Path
from typing import Any

from buffer.types import PolicySpec
from deploy.config import RunConfig


def frozen_model(spec: PolicySpec, config: RunConfig) -> Any:
    """What answers the task's questions (rewards.scorer.Answers)."""
    rewards = config.rewards
    if rewards.scorer == "vllm":
        from rewards.vllm_scorer import VllmScorer

        return VllmScorer(
            spec,
            on_gpu=rewards.gpus > 0,
            max_model_len=config.actors.max_model_len,
            kv_cache_gib=config.actors.kv_cache_gib,
            gpu_memory_fraction=rewards.gpu_memory_fraction,
            threads=rewards.threads,
        )
    from rewards.base_model import BaseModel

    adapter = None if rewards.adapter is None else Path(rewards.adapter)
    return BaseModel(spec, device_of(rewards.device), rewards.max_tokens, adapter)


def device_of(name: str) -> Any:
    """The torch device of a setting: auto is a GPU where there is one."""
    import torch

    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)
