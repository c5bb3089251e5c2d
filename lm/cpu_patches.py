"""The two changes to vLLM on CPUs, made together or not at all: they were written for one version of it."""

import logging
from typing import Any

VLLM_VERSION = "0.32.0"
"""Another version keeps its own code: slower, still right."""


def apply() -> dict[str, Any]:
    """Patch vLLM in this process, before an engine starts. Returns what the engine's arguments gain by it."""
    import vllm

    from lm import cpu_blocks, cpu_lora

    if vllm.__version__.split("+")[0] != VLLM_VERSION:
        logging.getLogger(__name__).warning(
            "vLLM %s is not %s, for which its CPU patches were written: adapters run at its own, lower speed",
            vllm.__version__,
            VLLM_VERSION,
        )
        return {}
    cpu_lora.apply()
    cpu_blocks.apply()
    return {"block_size": cpu_blocks.BLOCK_SIZE}
