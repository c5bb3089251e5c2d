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


CANARY = "canary-of-a-secret"
URL = f"redis://driver:{CANARY}@host:6379/0"


def test_the_command_can_be_typed_and_sends_paths_of_secrets_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("secrets/redis_driver", ".env"):
        (tmp_path / name).write_text(CANARY)
    for name in ("TRIBUTARY_REDIS_PASSWORD", "HF_TOKEN", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("TRIBUTARY_REDIS_PASSWORD_FILE", "/run/secrets/redis_driver")
    made = job("demo", ["learner.steps=5"], Path("/shared/runs/a b"), "http://head:8265", tmp_path, "python")
    words = shlex.split(made.shown())
    assert words[:3] == ["ray", "job", "submit"]
    assert words[words.index("--") + 1 :] == [
        "python", "-m", "deploy.cli", "train", "demo", "learner.steps=5", "--run", "/shared/runs/a b", "--continue",
    ]  # fmt: skip
    sent = json.loads(made.command()[made.command().index("--runtime-env-json") + 1])
    assert sent["env_vars"]["TRIBUTARY_REDIS_PASSWORD_FILE"] == "/run/secrets/redis_driver"
    assert CANARY not in f"{made.command()} {made.runtime_env} {made.metadata} {made.shown()}"
    assert {"secrets", ".env"} <= set(made.runtime_env["excludes"])


@pytest.mark.parametrize(
    ("overrides", "recipe", "environment", "message"),
    [
        ([f"buffer.url={URL}"], "", "", r"buffer\.url holds a password"),
        ([f'buffer.url="{URL}"'], "", "", r"buffer\.url holds a password"),
        (["buffer.url=redis://host/0?password=" + CANARY], "", "", r"buffer\.url holds a password"),
        ([], f'[buffer]\nurl = "{URL}"\n', "", r"buffer\.url of recipe\.toml holds a password"),
        ([], "", CANARY, "TRIBUTARY_REDIS_PASSWORD is set"),
    ],
    ids=["override", "quoted", "query", "recipe", "environment"],
)
def test_a_password_that_would_be_sent_with_the_job_is_refused_without_showing_it(
    overrides: list[str], recipe: str, environment: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(recipe)
    if environment:
        monkeypatch.setenv("TRIBUTARY_REDIS_PASSWORD", environment)
    with pytest.raises(ConfigError, match=f"{message}.*TRIBUTARY_REDIS_PASSWORD_FILE") as refused:
        job("recipe.toml", overrides, Path("/shared/run"), "http://head:8265", tmp_path, "python")
    assert CANARY not in str(refused.value)


def test_an_address_without_a_password_is_sent(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[buffer]\nurl = "redis://driver@host:6379/0"\n')
    overrides = ["buffer.url=rediss://driver@host:6379/0", "policy.stop=.", 'actors.advanced.labels={pool="a@b:c"}']
    assert job("recipe.toml", overrides, Path("/shared/run"), "http://head:8265", tmp_path, "python").overrides


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
