"""What a run on NVIDIA GPUs needs on this machine, as far as it can be seen without starting anything."""

import os
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.driver.nvidia_gpus import Gpu

MIN_DRIVER = 580
"""First driver of CUDA 13, which torch and vLLM on PyPI are built for."""
MIN_CAPABILITY = (8, 0)
"""First compute capability with bfloat16."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement and what this machine has."""

    name: str
    value: str
    fix: str | None = None
    """None if it is met."""


def gpu_requirements(gpus: Sequence[Gpu]) -> list[Requirement]:
    """Driver, compute capability, C compiler, Python headers."""
    return [_driver(gpus), *_capabilities(gpus), _compiler(), _headers()]


def _driver(gpus: Sequence[Gpu]) -> Requirement:
    name = "NVIDIA driver"
    if not gpus:
        return Requirement(name, "none", f"install a driver of version {MIN_DRIVER} or newer; `nvidia-smi` must run")
    version = gpus[0].driver
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) >= MIN_DRIVER:
        return Requirement(name, version)
    return Requirement(name, version, f"torch and vLLM are built for CUDA 13: update it to {MIN_DRIVER} or newer")


def _capabilities(gpus: Sequence[Gpu]) -> list[Requirement]:
    """One for each kind of card."""
    needed = ".".join(map(str, MIN_CAPABILITY))
    requirements = []
    for gpu in {gpu.name: gpu for gpu in gpus if gpu.capability}.values():
        numbers = [int(part) for part in gpu.capability.split(".") if part.isdecimal()]
        enough = tuple(numbers) >= MIN_CAPABILITY
        fix = None if enough else f"bfloat16 needs {needed} (Ampere or newer): use another card"
        requirements.append(Requirement("compute capability", f"{gpu.capability}, {gpu.name}", fix))
    return requirements


def _compiler() -> Requirement:
    """As triton/runtime/build.py looks for it when it compiles its first kernel."""
    if named := os.environ.get("CC"):
        found = shutil.which(named)
        fix = (
            None if found else "CC names no program, and Triton compiles with it at its first use: correct or unset it"
        )
        return Requirement("C compiler", found or f"CC = {named}", fix)
    compiler = shutil.which("gcc") or shutil.which("clang")
    fix = None if compiler else "Triton compiles at its first use: install gcc (Debian, Ubuntu: apt install gcc)"
    return Requirement("C compiler", compiler or "none", fix)


def _headers() -> Requirement:
    file = Path(sysconfig.get_path("include")) / "Python.h"
    fix = (
        None
        if file.is_file()
        else "Triton compiles against Python.h: install Python's headers (Debian, Ubuntu: apt install python3-dev, "
        "of the same version), or use a Python from uv, which has them"
    )
    return Requirement("Python headers", str(file) if file.is_file() else f"none: {file} is missing", fix)
