"""The compose file fits its schema and is taken by Docker; hadolint finds nothing in the Dockerfiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compose.engine import DOCKER

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
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


@pytest.mark.parametrize("profiles", [(), ("gpu",), ("monitoring",), ("gpu", "monitoring")], ids="+".join)
@pytest.mark.usefixtures("docker_compose")
def test_docker_compose_takes_the_file_with_every_profile(profiles: tuple[str, ...]) -> None:
    result = compose(*(f"--profile={profile}" for profile in profiles), "config", "--quiet")
    assert result.returncode == 0, result.stderr


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
