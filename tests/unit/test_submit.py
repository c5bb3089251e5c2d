"""`tributary submit`: the files and the command that it sends to a cluster, and the arguments that it refuses."""

import json
import shlex
import zipfile
from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.cluster.submit import check_size, excluded, job
from tests.support.processes import ROOT

MIB = 2**20


def test_the_working_directory_is_sent_in_less_than_5_mib(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "sent.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=excluded(ROOT))
    assert 0.1 * MIB < package.stat().st_size < 5 * MIB


def test_submit_uploads_gpu_environment__no_folder_with_pyvenv_cfg_is_sent_whatever_its_name(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    code = tmp_path / "code"
    for name in (".venv-gpu/lib/libtorch_cuda.so", "tools/[env] 2/lib/large.so", "tools/kept.py", "lib/large.so"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("x")
    for environment in (".venv-gpu", "tools/[env] 2"):
        (code / environment / "pyvenv.cfg").touch()
    made = job("demo", [], Path("/shared/run"), "http://head:8265", code, "python")
    create_package(str(code), tmp_path / "sent.zip", include_gitignore=True, excludes=made.runtime_env["excludes"])
    assert sorted(zipfile.ZipFile(tmp_path / "sent.zip").namelist()) == ["lib/large.so", "tools/kept.py"]


def test_a_working_directory_above_rays_limit_is_refused_before_packing_with_its_largest_files(tmp_path: Path) -> None:
    with (tmp_path / "weights.bin").open("wb") as sparse:
        sparse.truncate(600 * MIB)
    (tmp_path / "ignored.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"has 600 MiB to upload, .* at most 512 MiB.*weights\.bin \(600 MiB\)"):
        check_size(tmp_path)
    (tmp_path / ".gitignore").write_text("weights.bin\n")
    check_size(tmp_path)


def test_the_printed_command_can_be_typed_and_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIBUTARY_REDIS_PASSWORD", "canary-of-a-password")
    made = job("demo", ["learner.steps=5"], Path("/shared/runs/a b"), "http://head:8265", ROOT, "python")
    shown = made.shown()
    words = shlex.split(shown)
    assert words[:3] == ["ray", "job", "submit"] and "canary-of-a-password" not in shown
    assert words[words.index("--") + 1 :] == [
        "python", "-m", "deploy.cli", "train", "demo", "learner.steps=5", "--run", "/shared/runs/a b", "--continue",
    ]  # fmt: skip
    sent = json.loads(made.command()[made.command().index("--runtime-env-json") + 1])
    assert sent["env_vars"]["TRIBUTARY_REDIS_PASSWORD"] == "canary-of-a-password"


@pytest.mark.parametrize(
    ("run", "address", "message"),
    [
        (Path("/shared/run"), None, "needs the address"),
        (Path("/shared/run"), "127.0.0.1:6379", "must begin with http"),
        (Path("runs/demo"), "http://127.0.0.1:8265", "must be an absolute path"),
        (None, "http://127.0.0.1:8265", "must be an absolute path"),
    ],
)
def test_invalid_arguments_are_refused_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, run: Path | None, address: str | None, message: str
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=message):
        job("demo", [], run, address, ROOT, "python")


def test_a_deploy_py_in_the_working_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("")
    assert job("demo", [], Path("/shared/run"), "http://head:8265", tmp_path, "python").working_dir == tmp_path
    (tmp_path / "deploy.py").write_text("")
    with pytest.raises(ConfigError, match=r"deploy\.py has the name of Tributary's package.*Rename it"):
        job("demo", [], Path("/shared/run"), "http://head:8265", tmp_path, "python")
