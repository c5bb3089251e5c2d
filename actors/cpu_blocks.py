"""vLLM 0.32 on CPUs: prefix-cache blocks of 16 tokens instead of 32 or more.

Only whole blocks are shared between requests, so with the stock minimum every request of a prompt shorter than 32
tokens computes the whole prompt again: two thirds of the time of the integer task (18 prompt tokens, 3 actions;
docs/log.md). The attention kernel has a path for multiples of 16 (`vec16`); vLLM only does not offer it. CPU only,
applied before the engine starts.
"""

BLOCK_SIZE = 16
"""Tokens a block."""
VLLM_VERSION = "0.32.0"


def apply() -> bool:
    """Let the CPU attention backend accept blocks of 16. Returns whether the version fits."""
    import vllm
    from vllm.v1.attention.backend import MultipleOf
    from vllm.v1.attention.backends import cpu_attn

    if vllm.__version__.split("+")[0] != VLLM_VERSION:
        return False
    cpu_attn.CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(
        lambda kv_cache_spec=None: [MultipleOf(BLOCK_SIZE)]
    )
    return True
