"""A compose project on a real Docker engine.

TRIBUTARY_DOCKER              the docker command, `docker` by default; it must support build, compose, info, inspect, run, volume
TRIBUTARY_DOCKER_BUILD_ARGS   further arguments of `docker build`, such as --build-arg FIND_LINKS=...
"""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCKER = shlex.split(os.environ.get("TRIBUTARY_DOCKER", "docker"))
BUILD_ARGS = shlex.split(os.environ.get("TRIBUTARY_DOCKER_BUILD_ARGS", ""))
IMAGE = "tributary:cpu"
BUILD_LIMIT_S = 3600.0
CALL_LIMIT_S = 300.0


def docker(*args: str, limit_s: float = CALL_LIMIT_S, environment: Mapping[str, str] | None = None) -> str:
    """Output of a docker command. AssertionError with all its output when it fails."""
    process = subprocess.run(
        [*DOCKER, *args], cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=limit_s, check=False
    )  # fmt: skip
    assert process.returncode == 0, (
        f"docker {' '.join(args)} ended with {process.returncode}:\n{process.stdout}{process.stderr}"
    )
    return process.stdout


def missing_engine() -> str | None:
    """The reason why there is no Docker engine to test on; None if there is one."""
    for args in (("info",), ("compose", "version")):
        try:
            docker(*args)
        except FileNotFoundError:
            return f"no command {DOCKER[0]!r}: install Docker, or name another command in TRIBUTARY_DOCKER"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return f"no Docker engine: {' '.join(str(error).split())}"
    return None


def build() -> None:
    """Build the image of the CPU profile from this checkout."""
    docker("build", *BUILD_ARGS, "-t", IMAGE, "-f", "deploy/docker/cpu.Dockerfile", ".", limit_s=BUILD_LIMIT_S)


class Project:
    """The services of docker-compose.yml under a name of their own, with `settings` in place of an .env file."""

    def __init__(self, name: str, settings: dict[str, str], override: Path) -> None:
        self.name = name
        self.secrets = Path(settings["SECRETS"])
        self.settings = settings
        """May be changed; `up` then recreates the containers that use the changed settings."""
        self._files = [ROOT / "docker-compose.yml", override]

    def compose(self, *args: str, limit_s: float = CALL_LIMIT_S) -> str:
        """Output of `docker compose ARGS`."""
        files = [option for file in self._files for option in ("-f", str(file))]
        where = ["--project-directory", str(ROOT), "--env-file", os.devnull]
        return docker("compose", "-p", self.name, *files, *where, *args, limit_s=limit_s, environment=self.settings)

    def run_in(self, service: str, *command: str) -> str:
        """Output of a command in a service's running container."""
        return self.compose("exec", "-T", service, *command)

    def inspect(self, service: str) -> dict[str, Any]:
        """Output of `docker inspect` for a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        containers: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return containers[0]

    def state(self, service: str) -> str:
        """Status of a service's container, such as `running healthy` or `exited 0`."""
        state = self.inspect(service)["State"]
        return f"{state['Status']} {state['Health']['Status'] if 'Health' in state else state['ExitCode']}"

    def kill_process(self, service: str) -> None:
        """kill -9 a container's first process from the host, as in a crash. (`docker kill` counts as a request to stop.)"""
        pid = str(self.inspect(service)["State"]["Pid"])
        docker(
            "run", "--rm", "--pid", "host", "--user", "0", "--network", "none", IMAGE, "sh", "-c", 'kill -9 "$0"', pid
        )

    def volumes(self) -> set[str]:
        """Names of the project's volumes."""
        label = f"label=com.docker.compose.project={self.name}"
        return set(docker("volume", "ls", "--quiet", "--filter", label).split())

    def read_volume(self, volume: str, command: Sequence[str]) -> str:
        """Output of a command in a container of its own, with a volume of the project at /volume."""
        return docker("run", "--rm", "--network", "none", "-v", f"{self.name}_{volume}:/volume:ro", IMAGE, *command)
