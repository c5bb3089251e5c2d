"""Applies both CPU patches of vLLM, or neither: they are written for one version of it."""

import logging
from typing import Any

VLLM_VERSION = "0.32.0"
"""Any other version stays unpatched: slower, still correct."""


def apply() -> dict[str, Any]:
    """Patch vLLM in this process, before an engine starts. Returns the engine arguments that the patches require."""
    import vllm

    from lm import cpu_blocks, cpu_lora

    if vllm.__version__.split("+")[0] != VLLM_VERSION:
        logging.getLogger(__name__).warning(
            "vLLM %s is not %s, which the CPU patches are written for: adapters run unpatched, at lower speed",
            vllm.__version__,
            VLLM_VERSION,
        )
        return {}
    cpu_lora.apply()
    cpu_blocks.apply()
    return {"block_size": cpu_blocks.BLOCK_SIZE}
