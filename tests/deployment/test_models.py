"""In containers a model gets to the processes that load it: one service downloads it, Ray's nodes have no network."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.config import find_recipe, load_recipe
from deploy.models.registry import MODELS
from tests.support.hub_server import hub_server
from tests.support.processes import ROOT
from tests.support.tiny import make_tiny_model

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
RAY_NODES = ("ray", "ray-actors", "ray-learner")
NAME = "owner/tiny"


def cache_of(service: dict[str, Any]) -> str:
    """Where the volume with models is mounted."""
    (path,) = [volume.split(":")[1] for volume in service["volumes"] if volume.startswith("models:")]
    return str(path)


def in_container(service: str, folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with the variables of a service that name its caches; its volume of models is `folder`."""
    settings, cache = SERVICES[service]["environment"], cache_of(SERVICES[service])
    caches = {k: str(folder) + settings[k].removeprefix(cache) for k in ("TRIBUTARY_CACHE", "HF_HOME")}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRIBUTARY_", "XDG_"))}
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, capture_output=True, text=True,
        env=clean | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home")} | caches | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"))
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"", "onnx/config.json": b"{}"}


def test_a_hub_id_is_downloaded_by_the_service_and_found_by_every_ray_node(
    tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    get = ("-m", "deploy.cli", "model", "get", NAME)
    with hub_server(NAME, model_files) as url:
        done = in_container("model", tmp_path, *get, HF_ENDPOINT=url)
    assert done.returncode == 0 and f"{NAME} is ready" in done.stdout, done.stdout + done.stderr
    again = in_container("model", tmp_path, *get, HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0 and "already installed" in again.stdout, "a second start needs no network"

    find = f"from deploy.models.registry import resolve_model; print(resolve_model({NAME!r}))"
    for node in RAY_NODES:
        located = in_container(node, tmp_path, "-c", find, HF_ENDPOINT="http://127.0.0.1:9")
        assert located.returncode == 0, located.stderr
        files = {path.name: path.read_bytes() for path in Path(located.stdout.strip()).rglob("*") if path.is_file()}
        assert files == {k: v for k, v in model_files.items() if k not in ("README.md", "onnx/config.json")}


@pytest.mark.parametrize(
    ("files", "words"),
    [({"config.json": b"{}"}, r"lacks tokenizer.json, *.safetensors"), ({}, "owner/tiny can't be downloaded")],
    ids=["without-weights", "unknown"],
)
def test_a_hub_id_that_cannot_be_used_is_an_error_in_words(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with hub_server(NAME if files else "owner/other", files) as url:
        done = in_container("model", tmp_path, "-m", "deploy.cli", "model", "get", NAME, HF_ENDPOINT=url)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_plan_of_a_hub_id_downloads_its_config_alone_and_leaves_the_cache_as_it_was(
    tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    plan = ("-m", "deploy.cli", "validate", "demo-gpu", f"model.name={NAME}", "actors.max_model_len=64", "--plan")
    served = {"config.json": model_files["config.json"], "model.safetensors": b"not a model"}
    with hub_server(NAME, served) as url:
        done = in_container("model", tmp_path, *plan, HF_ENDPOINT=url)
    assert done.returncode == 0 and "GPU 0:" in done.stdout, done.stdout + done.stderr
    assert not list(tmp_path.rglob("config.json")), "a model without weights would look damaged"


def test_every_recipe_names_a_model_that_model_get_takes() -> None:
    names = {load_recipe(path.stem).model.name for path in find_recipe("demo").parent.glob("*.toml")}
    assert names and all(name in MODELS or name.count("/") == 1 for name in names)
    assert any("/" in name for name in names)


def test_the_nodes_of_kubernetes_look_for_hub_models_where_the_job_puts_them() -> None:
    def variables(file: str) -> list[str]:
        text = (ROOT / "deploy" / "kubernetes" / file).read_text()
        return [line.strip().partition(" #")[0] for line in text.splitlines() if "HF_HOME" in line]

    assert variables("model.yaml") == ["- {name: HF_HOME, value: /shared/huggingface}"]
    assert set(variables("rayjob-gpu.yaml")) == set(variables("model.yaml"))
