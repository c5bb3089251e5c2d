"""`tributary submit`: train as a job of a Ray cluster that stands already.

It runs `ray job submit` with the working directory and the right environment, and prints that command first: it can
be typed without us. A job of the same run that is alive is followed instead of being submitted twice, so whoever
follows a run may die and come back.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffer.errors import ConfigError, TributaryError
from buffer.server.connect import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE

EXCLUDED = (
    ".git", ".venv", "runs", "docs/images", "*.safetensors", "*.gguf", "*.aof", "*.egg-info",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", "__pycache__",
)  # fmt: skip
"""Not sent to the cluster: what is left of our own repository is below 1 MiB."""
PASSED_ON = ("HF_HOME", "HF_TOKEN", "TRIBUTARY_CACHE", PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE)
"""Variables that the job gets where they are set here. Whoever may ask Ray about jobs can read them there: on a shared
cluster give the nodes a file with the password instead."""
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
ALIVE = ("PENDING", "RUNNING")
POLL_S = 2.0
AGENT_LIMIT_S = 30.0
"""How long a cluster that answers may not be able to start jobs yet, s."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is submitted."""

    recipe: str
    overrides: Sequence[str]
    run: Path
    """Folder of the run, on a disk that the cluster's nodes share."""
    address: str
    """Of the cluster's job server, such as http://127.0.0.1:8265."""
    working_dir: Path
    python: str = "python"
    """On the cluster."""

    @property
    def entrypoint(self) -> list[str]:
        """What the cluster runs. It goes on with the run if there is one."""
        return [
            *(self.python, "-m", "deploy.cli", "train", self.recipe),
            *self.overrides,
            *("--run", str(self.run), "--continue"),
        ]

    @property
    def runtime_env(self) -> dict[str, Any]:
        """What Ray gives the job's processes."""
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {"excludes": list(EXCLUDED), "env_vars": {"PYTHONUNBUFFERED": "1"} | passed}

    @property
    def metadata(self) -> dict[str, str]:
        """By which a job of this run is found again."""
        return {"tributary_run": str(self.run)}

    def command(self) -> list[str]:
        """`ray job submit ...`"""
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.address),
            *("--working-dir", str(self.working_dir)),
            *("--runtime-env-json", json.dumps(self.runtime_env)),
            *("--metadata-json", json.dumps(self.metadata)),
            *("--", *self.entrypoint),
        ]

    def shown(self) -> str:
        """The command for a person: `ray` by its name, passwords and tokens left out."""
        secret = (PASSWORD_VARIABLE, "HF_TOKEN")
        hidden = {n: "..." if n in secret else v for n, v in self.runtime_env["env_vars"].items()}
        env = json.dumps(self.runtime_env | {"env_vars": hidden})
        words = [env if word == json.dumps(self.runtime_env) else word for word in self.command()[3:]]
        return shlex.join(["ray", *words])


def job(
    recipe: str, overrides: Sequence[str], run: Path | None, address: str | None, working_dir: Path, python: str
) -> Job:
    """What was asked for. ConfigError where something is missing."""
    address = address or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise ConfigError(
            "submit needs the address of a Ray cluster's job server: --address http://HOST:8265, or "
            f"{ADDRESS_VARIABLE}. Without a cluster: tributary train."
        )
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {address!r} must begin with http:// or https://, such as http://127.0.0.1:8265: it is the job "
            "server's, not the one of `ray start`."
        )
    if run is None or not run.is_absolute():
        raise ConfigError(
            f"--run {run} must be an absolute path: the job's own folder is gone when it ends. Give one on a disk that "
            "the cluster's nodes share, such as /shared/runs/NAME."
        )
    if not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir} is no folder. Give the one that the job is to start in.")
    return Job(recipe, overrides, run, address, working_dir, python)


def submit(job: Job, wait: bool, start_limit_s: float = 0.0) -> int:
    """Submit, or find the job that is alive, and follow it; its exit code: 0 if it succeeded.

    Without `wait` it is not followed. A job server that does not answer yet is waited for, `start_limit_s` at most.
    SIGTERM and Ctrl-C stop the job. Raises TributaryError where the cluster does not answer.
    """
    client = _client(job.address, start_limit_s)
    found = _alive(client, job)
    if found is None:
        found = _submitted(client, job, max(start_limit_s, AGENT_LIMIT_S))
    if not wait:
        return 0
    with _stops(client, found):
        return _follow(client, job, found)


def _client(address: str, limit_s: float) -> Any:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + limit_s
    while True:
        try:
            return JobSubmissionClient(address)
        except Exception as error:  # ConnectionError, RuntimeError, and what requests raises
            if time.monotonic() > deadline:
                raise _no_server(address, error) from error
        time.sleep(POLL_S)


def _no_server(address: str, error: Exception) -> TributaryError:
    return TributaryError(
        f"the job server at {address} does not answer as one: {error}. Is it the address of the cluster's "
        "dashboard, and is its token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH) set?"
    )


def _alive(client: Any, job: Job) -> str | None:
    """Id of a job of this run that has not ended."""
    for known in client.list_jobs():
        if known.metadata and job.metadata.items() <= known.metadata.items() and known.status in ALIVE:
            return str(known.submission_id)
    return None


def _submitted(client: Any, job: Job, limit_s: float) -> str:
    """Id of the new job. A server that answers before its node's agent can start jobs is asked again."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=shlex.join(job.entrypoint),
                    runtime_env=job.runtime_env | {"working_dir": str(job.working_dir)},
                    metadata=job.metadata,
                )
            )
        except (RuntimeError, ValueError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise TributaryError(f"the cluster did not take the job: {error}") from error
        time.sleep(POLL_S)


def _follow(client: Any, job: Job, submission_id: str) -> int:
    """Show its log until it ends, by `ray job logs --follow`."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    command = [*ray, "job", "logs", "--follow", "--address", job.address, submission_id]
    subprocess.run(command, check=False)
    status = client.get_job_status(submission_id)
    while status in ALIVE:  # the log was cut off before the job ended
        subprocess.run(command, check=False)
        status = client.get_job_status(submission_id)
    return 0 if status == "SUCCEEDED" else 1


@contextmanager
def _stops(client: Any, submission_id: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the job, which then writes what it has learned."""

    def stop(number: int, _frame: object) -> None:
        client.stop_job(submission_id)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
