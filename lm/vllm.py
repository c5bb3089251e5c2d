"""Starts a vLLM engine in this process, for actors and for the vLLM scorer."""

import os
from typing import Any

from buffer.types import PolicySpec


def start_vllm(
    spec: PolicySpec,
    *,
    on_gpu: bool,
    gpu_memory_fraction: float,
    kv_cache_gib: int,
    max_model_len: int,
    max_requests: int,
    log_probs: int,
    versions: int = 0,
    tensor_parallel: int = 1,
    seed: int = 0,
) -> Any:
    """A vllm.LLMEngine; takes tens of seconds.

    `gpu_memory_fraction` is the share of a GPU for weights and cache, `kv_cache_gib` the cache on a CPU [GiB],
    `max_model_len` the tokens of prompt and response, `max_requests` the requests in one step, `log_probs` the
    log-probabilities reported per position, `versions` the LoRA adapters held at once; with 0 the engine has no LoRA.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    extra: dict[str, Any] = {}
    if on_gpu:
        extra["gpu_memory_utilization"] = gpu_memory_fraction
    else:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes longer than it saves on a CPU
    if versions:
        extra |= _lora(spec, versions)
        if not on_gpu and tensor_parallel == 1:  # else vLLM's workers are other processes: no patches there
            from lm import cpu_patches

            extra |= cpu_patches.apply()
    if tensor_parallel > 1:
        os.environ.setdefault("VLLM_RPC_BASE_PATH", "/tmp")  # a socket's path is short; a batch system's TMPDIR is not
        extra |= {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "mp"}
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(
        EngineArgs(
            model=spec.base_model,
            skip_tokenizer_init=True,
            dtype=spec.dtype,
            seed=seed,
            max_model_len=max_model_len,
            max_num_seqs=max_requests,
            max_logprobs=log_probs,
            enable_prefix_caching=True,
            enforce_eager=not on_gpu,
            disable_log_stats=True,
            **extra,
        )
    )


def _lora(spec: PolicySpec, versions: int) -> dict[str, Any]:
    """Engine arguments of a policy: the learner's quantization of the base weights, and slots for its adapters."""
    policy: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": versions,
        "max_cpu_loras": versions + 1,
        "max_lora_rank": _vllm_rank(spec.lora_rank),
        "lora_target_modules": list(spec.lora_targets),
    }
    if spec.quantization == "nf4":
        policy["quantization"] = "bitsandbytes"
    return policy


def _vllm_rank(rank: int) -> int:
    """The smallest rank >= `rank` that vLLM has kernels for."""
    return next(r for r in (1, 8, 16, 32, 64, 128, 256, 320, 512) if r >= rank)
