"""A compose project on a real Docker engine.

TRIBUTARY_DOCKER              the docker command, `docker` by default; it knows build, compose, info, inspect, run, volume
TRIBUTARY_DOCKER_BUILD_ARGS   more arguments of `docker build`, such as --build-arg FIND_LINKS=...
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
    """What a docker command prints. AssertionError, with all it said, when it fails."""
    ended = subprocess.run(
        [*DOCKER, *args], cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=limit_s, check=False
    )  # fmt: skip
    assert ended.returncode == 0, (
        f"docker {' '.join(args)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
    )
    return ended.stdout


def why_none() -> str | None:
    """Why there is no engine to test on; None where there is one."""
    for args in (("info",), ("compose", "version")):
        try:
            docker(*args)
        except FileNotFoundError:
            return f"no command {DOCKER[0]!r}; TRIBUTARY_DOCKER may name another"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return f"no Docker engine: {' '.join(str(error).split())}"
    return None


def build() -> None:
    """The image of the CPU profile, from this checkout."""
    docker("build", *BUILD_ARGS, "-t", IMAGE, "-f", "deploy/docker/cpu.Dockerfile", ".", limit_s=BUILD_LIMIT_S)


class Project:
    """The services of docker-compose.yml under a name of their own, with `settings` in place of an .env file."""

    def __init__(self, name: str, settings: dict[str, str], override: Path) -> None:
        self.name = name
        self.secrets = Path(settings["SECRETS"])
        self.settings = settings
        """May be changed; `up` then makes anew the containers that it concerns."""
        self._files = [ROOT / "docker-compose.yml", override]

    def compose(self, *args: str, limit_s: float = CALL_LIMIT_S) -> str:
        """What `docker compose ARGS` prints."""
        files = [option for file in self._files for option in ("-f", str(file))]
        where = ["--project-directory", str(ROOT), "--env-file", os.devnull]
        return docker("compose", "-p", self.name, *files, *where, *args, limit_s=limit_s, environment=self.settings)

    def run_in(self, service: str, *command: str) -> str:
        """What a command prints in a service's running container."""
        return self.compose("exec", "-T", service, *command)

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        found: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return found[0]

    def state(self, service: str) -> str:
        """Such as: running healthy, exited 0."""
        state = self.inspect(service)["State"]
        return f"{state['Status']} {state['Health']['Status'] if 'Health' in state else state['ExitCode']}"

    def kill_process(self, service: str) -> None:
        """kill -9 of a container's first process from the host's side, as a crash. (`docker kill` counts as a wish to stop.)"""
        pid = str(self.inspect(service)["State"]["Pid"])
        docker(
            "run", "--rm", "--pid", "host", "--user", "0", "--network", "none", IMAGE, "sh", "-c", 'kill -9 "$0"', pid
        )

    def volumes(self) -> set[str]:
        """Names of the project's volumes."""
        label = f"label=com.docker.compose.project={self.name}"
        return set(docker("volume", "ls", "--quiet", "--filter", label).split())

    def read_volume(self, volume: str, command: Sequence[str]) -> str:
        """What a command prints with a volume of the project, and nothing else of it, at /volume."""
        return docker("run", "--rm", "--network", "none", "-v", f"{self.name}_{volume}:/volume:ro", IMAGE, *command)
