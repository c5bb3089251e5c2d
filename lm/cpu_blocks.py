"""vLLM 0.32 on CPUs: prefix-cache blocks of 16 tokens instead of 32 or more.

Requests share whole blocks only. With the stock minimum, every request whose prompt is shorter than 32 tokens computes
the whole prompt again: two thirds of the time of the integer task (18 prompt tokens, 3 actions; docs/log.md). The
attention kernel has a path for multiples of 16 (`vec16`), but vLLM does not offer it. CPU only, applied before the
engine starts.
"""

BLOCK_SIZE = 16
"""Tokens per block."""


def apply() -> None:
    """Let the CPU attention backend accept blocks of 16."""
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends import cpu_attn

    backend = cpu_attn.CPUAttentionBackend
    backend.get_supported_kernel_block_sizes = staticmethod(lambda kv_cache_spec=None: [MultipleOf(BLOCK_SIZE)])
