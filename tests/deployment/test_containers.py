"""The compose file fits its schema and is taken by Docker; hadolint finds nothing in the Dockerfiles."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.compose.engine import DOCKER

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A tool of the development environment."""
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)


def test_the_compose_file_fits_the_compose_specification() -> None:
    result = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_compose_specification_refuses_a_misspelt_key(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yml"
    bad.write_text(COMPOSE.read_text().replace("    image:", "    imagge:", 1))
    result = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(bad))
    assert result.returncode == 1 and "imagge" in result.stdout


def compose(*args: str) -> subprocess.CompletedProcess[str]:
    """Docker's own reading of a compose file, for which no engine has to run."""
    command = [*DOCKER, "compose", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COMPOSE_PROFILES": ""})


@pytest.fixture(scope="module")
def docker_compose() -> None:
    try:
        known = compose("version").returncode == 0
    except FileNotFoundError:
        known = False
    if not known:
        pytest.skip(f"no command `{' '.join(DOCKER)} compose`; TRIBUTARY_DOCKER may name another docker")


@pytest.mark.parametrize(
    "profiles", [(), ("gpu",), ("gpu", "two-gpus"), ("monitoring",), ("gpu", "monitoring")], ids="+".join
)
@pytest.mark.usefixtures("docker_compose")
def test_docker_compose_takes_the_file_with_every_profile(profiles: tuple[str, ...]) -> None:
    result = compose(*(f"--profile={profile}" for profile in profiles), "config", "--quiet")
    assert result.returncode == 0, result.stderr


def interpolated(text: str, settings: dict[str, str]) -> str:
    """`text` with its ${NAME:-default} replaced, as compose does it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: settings.get(match[1]) or match[2], text)


def submitted(tmp_path: Path, **settings: str) -> list[str]:
    """What the service `run` calls `tributary` with."""
    (tmp_path / "tributary").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/called\n")
    (tmp_path / "tributary").chmod(0o700)
    command = shlex.split(interpolated(SERVICES["run"]["command"], settings))
    done = subprocess.run(command, cwd=ROOT, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == 0
    return (tmp_path / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({}, "demo"),
        ({"VARIANT": "cpu", "RECIPE": ""}, "demo"),
        ({"VARIANT": "gpu"}, "demo-gpu"),
        ({"VARIANT": "gpu", "RECIPE": "/tasks/mine.toml"}, "/tasks/mine.toml"),
    ],
)
def test_the_demo_that_is_submitted_is_the_one_of_the_images_build(
    tmp_path: Path, settings: dict[str, str], recipe: str
) -> None:
    called = submitted(tmp_path, OVERRIDES="learner.steps=320 seed=1", **settings)
    assert called[:4] == ["submit", recipe, "--run", "/runs/demo"]
    assert called[-2:] == ["learner.steps=320", "seed=1"]


def test_the_profile_gpu_asks_for_no_other_gpu_than_the_first() -> None:
    devices = [
        interpolated(device, {})
        for service in SERVICES.values()
        if service.get("profiles") == ["gpu"]
        for reserved in service["deploy"]["resources"]["reservations"]["devices"]
        for device in reserved["device_ids"]
    ]
    assert devices == ["0"]


def test_make_demo_trains_the_recipe_of_its_build() -> None:
    for extra, recipe in (("cpu", "demo"), ("gpu", "demo-gpu")):
        done = subprocess.run(["make", "-n", "demo", f"EXTRA={extra}"], cwd=ROOT, capture_output=True, text=True)
        assert f"tributary train {recipe} --run" in done.stdout


def test_every_package_gets_into_the_image() -> None:
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in found} <= let_in


@pytest.mark.usefixtures("docker_compose")
def test_docker_compose_refuses_a_network_that_nobody_defines(tmp_path: Path) -> None:
    bad = tmp_path / "docker-compose.yml"
    bad.write_text(COMPOSE.read_text().replace("networks: [store]", "networks: [stores]", 1))
    result = compose("-f", str(bad), "config", "--quiet")
    assert result.returncode != 0 and "stores" in result.stderr


def test_there_are_dockerfiles() -> None:
    assert {path.name for path in DOCKERFILES} >= {"cpu.Dockerfile", "gpu.Dockerfile"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    result = run("hadolint", str(path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_hadolint_finds_a_careless_dockerfile(tmp_path: Path) -> None:
    bad = tmp_path / "bad.Dockerfile"
    bad.write_text("FROM debian\nRUN apt-get install python3\n")
    assert run("hadolint", str(bad)).returncode == 1
