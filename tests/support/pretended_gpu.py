"""vLLM's platform of GPUs, with an invented H100: its configuration can be built where no GPU is."""

import sys
from types import ModuleType
from typing import Any

CAPABILITY = (9, 0)
MEMORY = 80 * 2**30
"""Bytes."""


def pretend_gpu() -> None:
    """Make vLLM's build for GPUs, in this process, believe in eight H100s. Nothing can be computed on them."""
    sys.modules.setdefault("vllm._C_stable_libtorch", ModuleType("kernels"))  # needs the driver's library
    import vllm.platforms
    from vllm.platforms.cuda import CudaPlatformBase
    from vllm.platforms.interface import DeviceCapability

    class Pretended(CudaPlatformBase):
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> Any:
            return DeviceCapability(*CAPABILITY)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return "NVIDIA H100 80GB HBM3"

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return MEMORY

        @classmethod
        def device_count(cls) -> int:
            return 8

    vllm.platforms._current_platform = Pretended()
