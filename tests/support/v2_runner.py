"""A pytest plug-in: vLLM with the model runner and the scheduling that GPUs get, on a CPU.

    pytest -p tests.support.v2_runner tests/system/test_engine.py

vLLM 0.32 chooses its second model runner wherever Triton has a backend, and with it other code for sampling, masks,
log-probabilities and adapter slots; on CPUs it takes the first one and no asynchronous scheduling. Here Triton gets a
backend that says "cpu", whose kernels its interpreter runs. LoRA products stay those of the CPU: the interpreter computes
bf16 products of the GPU's kernels wrongly.

Import it before triton and vllm, which read the environment at import. At the end the plug-in prints, in one line, what
the engines were: ENGINES [[module.class of the runner, asynchronous scheduling], ...].
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["TRITON_DEFAULT_BACKEND"] = "cpu"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"

from types import SimpleNamespace
from typing import Any

import torch
from triton.backends import Backend, backends
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from lm.vllm import VllmEngine

WARP = 32
PROPERTIES = {"multiprocessor_count": 2, "max_shared_mem": 2**20, "warpSize": WARP, "max_num_regs": 2**16}
ENGINES: list[tuple[str, bool]] = []


class InterpreterDriver(DriverBase):  # type: ignore[misc]
    """What Triton asks a driver before it hands a kernel to the interpreter."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(get_device_properties=lambda device: PROPERTIES)

    @classmethod
    def is_active(cls) -> bool:
        """The only backend."""
        return True

    def get_current_device(self) -> int:
        """The number of the device."""
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        """There are no streams."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """A machine that no compiler knows: kernels are interpreted."""
        return GPUTarget("cpu", 0, WARP)

    def get_active_torch_device(self) -> torch.device:
        """Where the tensors are."""
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        """Torch's module of the device."""
        return torch.cpu

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Nothing is compiled."""
        return "void*"

    def get_benchmarker(self) -> Any:
        """Nothing is tuned."""
        return None


backends["cpu"] = Backend(compiler=None, driver=InterpreterDriver)
from vllm.platforms.cpu import CpuPlatform  # noqa: E402, vLLM reads the backends at import

plain_config, plain_init = CpuPlatform.check_and_update_config.__func__, VllmEngine.__init__


def check_and_update_config(cls: type, vllm_config: Any) -> None:
    """As on CPUs, with the scheduling of GPUs."""
    plain_config(cls, vllm_config)
    vllm_config.scheduler_config.async_scheduling = True


def init(self: VllmEngine, build: Any) -> None:
    """Record what was built."""
    plain_init(self, build)
    core = self._engine.engine_core.engine_core
    runner = type(core.model_executor.driver_worker.worker.model_runner).__bases__[0]
    ENGINES.append((f"{runner.__module__}.{runner.__name__}", core.async_scheduling))


CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
VllmEngine.__init__ = init  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the engines of this session."""
    terminalreporter.write_line(f"ENGINES {json.dumps(ENGINES)}")
