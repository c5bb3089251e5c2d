"""`tributary submit`: trains as a job of an existing Ray cluster.

It does what `ray job submit` does, with the working directory and the right environment, and prints that command first,
so that it can be typed without Tributary. If a job of the same run is pending or running, it is followed instead of
submitted twice: the process that follows a run may die and be restarted.
"""

import glob
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buffer.errors import ConfigError, TributaryError
from buffer.server.connect import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE, redact

EXCLUDED = (
    ".git", ".venv", "runs", "secrets", ".env", "docs/images", "*.safetensors", "*.gguf", "*.aof", "*.egg-info",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache", "__pycache__",
)  # fmt: skip
"""Not uploaded to the cluster, nor is a folder with pyvenv.cfg; the rest of this repository is below 1 MiB."""
MAX_SHOWN_FILES = 5
PASSED_ON = ("HF_HOME", "TRIBUTARY_CACHE", PASSWORD_FILE_VARIABLE)
"""Environment variables that are passed on to the job: never a secret. Ray writes them into a log that every user of a
node may read, and shows them to everyone who may query its jobs."""
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
ALIVE = ("PENDING", "RUNNING")
POLL_S = 2.0
AGENT_LIMIT_S = 30.0
"""Time that a reachable cluster may take until it can start jobs, s."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run to submit."""

    recipe: str
    overrides: Sequence[str]
    run: Path
    """Folder of the run, on a disk that the cluster's nodes share."""
    address: str
    """The cluster's job server, such as http://127.0.0.1:8265."""
    working_dir: Path
    python: str = "python"
    """The Python command on the cluster."""

    @property
    def entrypoint(self) -> list[str]:
        """The command that the cluster runs: it continues the run if its folder holds one, else starts it."""
        return [
            *(self.python, "-m", "deploy.cli", "train", self.recipe),
            *self.overrides,
            *("--run", str(self.run), "--continue"),
        ]

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment of the job's processes."""
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {"excludes": excluded(self.working_dir), "env_vars": {"PYTHONUNBUFFERED": "1"} | passed}

    @property
    def metadata(self) -> dict[str, str]:
        """Identifies the jobs of this run."""
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
        """The command for display: starts with `ray`."""
        return shlex.join(["ray", *self.command()[3:]])


def job(
    recipe: str, overrides: Sequence[str], run: Path | None, address: str | None, working_dir: Path, python: str
) -> Job:
    """The job of these command line options. ConfigError where one is missing or invalid."""
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
            f"--run {run} must be an absolute path: Ray deletes the job's own folder when it ends. Give one on a disk "
            "that the cluster's nodes share, such as /shared/runs/NAME."
        )
    if not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir} is not a folder. Give the folder that the job starts in.")
    if (working_dir / "deploy.py").is_file() and not (working_dir / "deploy").is_dir():
        raise ConfigError(
            f"{working_dir / 'deploy.py'} has the name of Tributary's package `deploy`, and the job starts in its "
            "folder, where Python would import it instead. Rename it."
        )
    _refuse_secrets(recipe, overrides, working_dir)
    return Job(recipe, overrides, run, address, working_dir, python)


def _refuse_secrets(recipe: str, overrides: Sequence[str], working_dir: Path) -> None:
    """ConfigError where a password would be sent with the job: in an override, in the recipe, or by the environment."""
    fix = (
        f"Everyone who may query Ray's jobs could read it. Put it into a file on the cluster's nodes, and set "
        f"{PASSWORD_FILE_VARIABLE} to the file's path there."
    )
    for override in overrides:
        name, _, value = override.partition("=")
        if "://" in value and redact(value.strip("\"'")) != value.strip("\"'"):
            raise ConfigError(f"{name} holds a password. {fix}")
    with suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):  # the cluster's tributary reports them
        url = tomllib.loads((working_dir / recipe).read_text()).get("buffer", {}).get("url")
        if isinstance(url, str) and redact(url) != url:
            raise ConfigError(f"buffer.url of {recipe} holds a password. {fix}")
    if PASSWORD_VARIABLE in os.environ and PASSWORD_FILE_VARIABLE not in os.environ:
        raise ConfigError(f"{PASSWORD_VARIABLE} is set, and submit does not send a password. {fix}")


def excluded(folder: Path) -> list[str]:
    """Patterns of what is not uploaded from `folder`: EXCLUDED and its Python environments, whatever their names."""
    environments = []
    for parent, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files and Path(parent) != folder:
            environments.append(f"/{glob.escape(Path(parent).relative_to(folder).as_posix())}/")
            folders.clear()
        folders[:] = [name for name in folders if name not in EXCLUDED]
    return [*EXCLUDED, *sorted(environments)]


def check_size(folder: Path) -> None:
    """Raise ConfigError, before anything is packed, where the files to upload exceed what Ray takes."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes

    sizes: dict[Path, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    folder = folder.absolute()
    _dir_travel(folder, [_get_excludes(folder, excluded(folder))], add, include_gitignore=True)
    total = sum(sizes.values())
    if total > GCS_STORAGE_MAX_SIZE:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:MAX_SHOWN_FILES]
        shown = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise ConfigError(
            f"--working-dir {folder} has {total / 2**20:.0f} MiB to upload, and Ray takes at most "
            f"{GCS_STORAGE_MAX_SIZE / 2**20:.0f} MiB. The largest files: {shown}. Move them elsewhere, or name them in "
            ".gitignore or .rayignore."
        )


def submit(job: Job, wait: bool, start_limit_s: float = 0.0) -> int:
    """Submit the job, or find the one that is pending or running, and follow it; returns 0 if it succeeded, else 1.

    Without `wait` it returns 0 at once. Waits up to `start_limit_s` for the job server. SIGTERM and Ctrl-C stop the
    job. Raises TributaryError where the cluster does not answer, ConfigError where the working directory is too large.
    """
    check_size(job.working_dir)
    client = _connect(job.address, start_limit_s)
    submission_id = _find_job(client, job)
    if submission_id is None:
        submission_id = _submit_job(client, job, max(start_limit_s, AGENT_LIMIT_S))
    if not wait:
        return 0
    with _stop_job_on_signal(client, submission_id):
        return _follow(client, job, submission_id)


def _connect(address: str, limit_s: float) -> Any:
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
        f"no Ray job server answers at {address}: {error}. Check that it is the address of the cluster's dashboard and "
        "that the cluster's token is set (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)."
    )


def _find_job(client: Any, job: Job) -> str | None:
    """Id of a pending or running job of this run."""
    for details in client.list_jobs():
        if details.metadata and job.metadata.items() <= details.metadata.items() and details.status in ALIVE:
            return str(details.submission_id)
    return None


def _submit_job(client: Any, job: Job, limit_s: float) -> str:
    """Id of the new job. Retries for `limit_s` while the server's node has no agent that can start jobs yet."""
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
                raise TributaryError(f"the cluster did not accept the job: {error}") from error
        time.sleep(POLL_S)


def _follow(client: Any, job: Job, submission_id: str) -> int:
    """Print its log until it ends, by `ray job logs --follow`; returns 0 if it succeeded, else 1."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    command = [*ray, "job", "logs", "--follow", "--address", job.address, submission_id]
    subprocess.run(command, check=False)
    status = client.get_job_status(submission_id)
    while status in ALIVE:  # the log was cut off before the job ended
        subprocess.run(command, check=False)
        status = client.get_job_status(submission_id)
    return 0 if status == "SUCCEEDED" else 1


@contextmanager
def _stop_job_on_signal(client: Any, submission_id: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the job, which then writes its newest adapter."""

    def stop(number: int, _frame: object) -> None:
        client.stop_job(submission_id)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
