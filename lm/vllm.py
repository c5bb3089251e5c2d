"""Starts a vLLM engine in this process, for actors and for the vLLM scorer."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from buffer.types import PolicySpec

BATCHED_TOKENS = 2048
"""Tokens that the engine computes in one step; longer prompts take several. vLLM's default for an engine in process."""
KERNEL_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of LoRA that vLLM has kernels for."""
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than it saves on a CPU
}
"""Environment of a vLLM on CPUs."""
UNUSED_SHARE = 0.01
"""Share of a GPU that vLLM requires to be free at its start, on top of what the given cache size takes later."""


class VllmEngine:
    """A vllm.LLMEngine that computes in one thread of its own, from its start to its end.

    Ray builds an actor in one thread and calls it in others. vLLM and torch keep things per thread: CUDA streams, a
    team of OpenMP threads and its size. So whoever calls waits here while the engine's thread works.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        """`build` returns the LLMEngine."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._engine = self._call(build)

    def add_request(self, request_id: str, prompt: Any, params: Any, lora_request: Any = None) -> None:
        """Queue a request; computes nothing."""
        self._engine.add_request(request_id, prompt, params, lora_request=lora_request)

    def unfinished(self) -> int:
        """Requests whose last output `step` has not returned yet."""
        return int(self._engine.get_num_unfinished_requests())

    def step(self) -> list[Any]:
        """Advance all requests; returns vLLM's outputs."""
        outputs: list[Any] = self._call(self._engine.step)
        return outputs

    def remove_lora(self, lora_id: int) -> None:
        """Free the slot of an adapter."""
        self._call(self._engine.remove_lora, lora_id)

    def set_threads(self, threads: int) -> None:
        """Use this many CPU threads from now on."""
        import torch

        self._call(torch._C.set_num_threads, threads)  # vLLM's CPU worker makes torch.set_num_threads do nothing

    def threads(self) -> int:
        """The number of CPU threads."""
        import torch

        return int(self._call(torch.get_num_threads))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._thread.submit(function, *arguments).result()


def start_vllm(
    spec: PolicySpec,
    *,
    on_gpu: bool,
    kv_cache_gib: int,
    max_model_len: int,
    max_requests: int,
    log_probs: int,
    versions: int = 0,
    tensor_parallel: int = 1,
    seed: int = 0,
) -> VllmEngine:
    """Takes tens of seconds. The settings are those of `engine_arguments`."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not on_gpu:
        os.environ.update(CPU_ENVIRONMENT)
    arguments = engine_arguments(
        spec,
        on_gpu=on_gpu,
        kv_cache_gib=kv_cache_gib,
        max_model_len=max_model_len,
        max_requests=max_requests,
        log_probs=log_probs,
        versions=versions,
        tensor_parallel=tensor_parallel,
        seed=seed,
    )
    if versions and not on_gpu and tensor_parallel == 1:  # else vLLM's workers are other processes: no patches there
        from lm import cpu_patches

        arguments |= cpu_patches.apply()
    if tensor_parallel > 1:
        os.environ.setdefault("VLLM_RPC_BASE_PATH", "/tmp")  # a socket's path is short; a batch system's TMPDIR is not
    from vllm import EngineArgs, LLMEngine

    return VllmEngine(lambda: LLMEngine.from_engine_args(EngineArgs(**arguments)))


def engine_arguments(
    spec: PolicySpec,
    *,
    on_gpu: bool,
    kv_cache_gib: int,
    max_model_len: int,
    max_requests: int,
    log_probs: int,
    versions: int,
    tensor_parallel: int,
    seed: int,
) -> dict[str, Any]:
    """The fields of vllm.EngineArgs.

    `kv_cache_gib` is the cache on a CPU or on each GPU [GiB], `max_model_len` the tokens of prompt and response,
    `max_requests` the requests in one step, `log_probs` the log-probabilities reported per position, `versions` the
    LoRA adapters held at once; with 0 the engine has no LoRA.
    """
    arguments: dict[str, Any] = {
        "model": spec.base_model,
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": spec.dtype,
        "seed": seed,
        "max_model_len": max_model_len,
        "max_num_seqs": max_requests,
        "max_num_batched_tokens": max(BATCHED_TOKENS, max_requests),
        "max_logprobs": log_probs,
        "enable_prefix_caching": True,
        "enforce_eager": not on_gpu,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        # A size instead of a share of the GPU: to find what is left over, vLLM would also count what other processes
        # allocate at that time. It compares the share with the free memory all the same, so that is small.
        "kv_cache_memory_bytes": kv_cache_gib * 2**30,
        "gpu_memory_utilization": UNUSED_SHARE,
    }
    if spec.dtype != "float32":
        arguments["hf_overrides"] = {"head_dtype": "float32"}  # logits in fp32, as in lm/head.py
    if versions:
        arguments |= _lora(spec, versions)
    if tensor_parallel > 1:
        arguments |= {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "mp"}
    return arguments


def _lora(spec: PolicySpec, versions: int) -> dict[str, Any]:
    """Engine arguments of a policy: the learner's quantization of the base weights, and slots for its adapters."""
    policy: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": versions,
        "max_cpu_loras": versions + 1,
        "max_lora_rank": kernel_rank(spec.lora_rank),
        "lora_target_modules": list(spec.lora_targets),
    }
    if spec.quantization == "nf4":
        policy["quantization"] = "bitsandbytes"
    return policy


def kernel_rank(rank: int) -> int:
    """The smallest rank >= `rank` that vLLM has kernels for."""
    return next(r for r in KERNEL_RANKS if r >= rank)
