"""vLLM's own settings for what we do with it: many adapters, log-probabilities of chosen tokens, no child process."""

import os
from typing import Any

from actors.config import ActorConfig
from buffer.types import PolicySpec


def start_vllm(spec: PolicySpec, config: ActorConfig, seed: int, on_gpu: bool, versions: int, log_probs: int) -> Any:
    """An LLMEngine in this process; takes tens of seconds. It can hold `versions` adapters at once and report up to
    `log_probs` log-probabilities a position."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    extra: dict[str, Any] = {}
    if on_gpu:
        extra["gpu_memory_utilization"] = config.gpu_memory_fraction
    else:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gib)
        os.environ["TORCHDYNAMO_DISABLE"] = (
            "1"  # the first request would compile for 10 s and more, for nothing on CPUs
        )
        if config.tensor_parallel == 1:  # vLLM's workers are other processes, which the patches don't reach
            from actors import cpu_patches

            extra |= cpu_patches.apply()
    if config.tensor_parallel > 1:
        extra |= {"tensor_parallel_size": config.tensor_parallel, "distributed_executor_backend": "mp"}
    if spec.quantization == "nf4":
        extra["quantization"] = "bitsandbytes"
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(
        EngineArgs(
            model=spec.base_model,
            skip_tokenizer_init=True,
            dtype=spec.dtype,
            seed=seed,
            enable_lora=True,
            max_loras=versions,
            max_cpu_loras=versions + 1,
            max_lora_rank=_vllm_rank(spec.lora_rank),
            lora_target_modules=list(spec.lora_targets),
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_in_flight,
            max_logprobs=log_probs,
            enable_prefix_caching=True,
            enforce_eager=not on_gpu,
            disable_log_stats=True,
            **extra,
        )
    )


def _vllm_rank(rank: int) -> int:
    """The smallest rank that vLLM has kernels for and that holds `rank`."""
    return next(r for r in (1, 8, 16, 32, 64, 128, 256, 320, 512) if r >= rank)
