"""A run on an existing cluster: submitted, stopped, submitted again; a node lost, processes added and removed."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from deploy.telemetry.figures import METRICS
from tests.support.processes import MARK, ROOT, Command, free_port, marked, rows_of, until
from tests.system.test_worker_imports import expected, folder_with_our_names, imports_of_a_worker

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).parent / "ray")
OURS = (
    "ray::ActorProcess",
    "ray::RewardProcess",
    "ray::LearnerProcess",
    "ray::AdapterStore",
    "valkey-server",
    "deploy.cli",
    "EngineCore",
)
CANARIES = {name: uuid4().hex for name in ("TRIBUTARY_REDIS_PASSWORD", "HF_TOKEN", "WANDB_API_KEY")}
"""In the environment of who submits. Random: this file is uploaded, too."""
RARE = {
    "tributary_buffer_refused",  # only where a trajectory was refused
    "tributary_run_restarts",
    "tributary_reward_failed_strings",
    "tributary_reward_cache_hits",
    "tributary_learner_skipped_steps",
    "tributary_actor_canaries_exceeded",
    "tributary_learner_staleness_versions",  # a batch may have no fresh row
    "tributary_learner_log_reward_nats",  # a batch may have no fresh row of the policy's own
    "tributary_learner_completion_tokens",
    "tributary_learner_cut_share",
    "tributary_learner_entropy_nats",
    "tributary_learner_log_z_nats",
    "tributary_learner_missing_mass_share",  # only after some draws of a prompt
}


@dataclass(frozen=True)
class Head:
    """A Ray head node with a job server."""

    address: str
    jobs: str
    metrics: int
    agent: int
    environment: dict[str, str]

    def ray(self, *args: str, limit_s: float = 120.0) -> str:
        """Output of a `ray` command, which must succeed."""
        process = subprocess.run(
            [RAY, *args], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=limit_s
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def job(self) -> dict[str, Any]:
        """The newest job."""
        with urllib.request.urlopen(f"{self.jobs}/api/jobs/") as response:
            return max(json.load(response), key=lambda job: int(job["start_time"] or 0))

    def titles(self) -> list[str]:
        """Command lines of all processes of the cluster."""
        titles = []
        for process in marked(self.environment[MARK]):
            try:
                titles.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return titles

    def alive(self) -> list[str]:
        """Command lines of Tributary's processes."""
        return [title for title in self.titles() if any(name in title for name in OURS)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", MARK: f"head-{os.getpid()}", "PYTHONPATH": str(ROOT),
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # as docs/operate.md advises: a stopped job needs more than Ray's 3 s on a busy machine
    }  # fmt: skip
    for _ in range(3):
        head = start_head(environment)
        if is_up(head):
            break
        end(environment[MARK])
    yield head
    end(environment[MARK])


def start_head(environment: dict[str, str]) -> Head:
    head = Head(f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", free_port(), free_port(), environment)
    head.ray(
        "start", "--head", f"--port={head.address.rpartition(':')[2]}", f"--dashboard-port={head.jobs.rpartition(':')[2]}", "--node-ip-address=127.0.0.1",
        f"--metrics-export-port={head.metrics}", f"--dashboard-agent-listen-port={head.agent}", "--num-cpus=4", "--disable-usage-stats",
    )  # fmt: skip
    return head


def is_up(head: Head) -> bool:
    """Wait for the node. False if it died: Ray gives a node's agent 15 s to report its port, too few on a busy machine (2.60)."""
    deadline, tick = time.monotonic() + 60, threading.Event()
    while time.monotonic() < deadline and any("raylet/raylet" in title for title in head.titles()):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{head.agent}/api/local_raylet_healthz"):
                return True
        except OSError:
            tick.wait(0.5)
    return False


def end(mark: str) -> None:
    """Kill the processes with this mark. `ray stop` would end every cluster of this machine."""
    for process in marked(mark):
        process.kill()


def test_rewards_py_in_folder__workers_of_an_existing_cluster_import_our_packages_too(
    head: Head, tmp_path: Path
) -> None:
    folder = folder_with_our_names(tmp_path / "own")
    imports = imports_of_a_worker(folder, RAY_ADDRESS=head.address, RAY_AUTH_MODE="disabled")
    assert imports == expected(folder)


def test_a_stopped_job_leaves_its_adapter_and_no_process_and_resumes_when_submitted_again(
    head: Head, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [
        "learner.steps=100000",
        "learner.checkpoint_every=10",
        "evaluation.samples=64",
        "--run",
        str(run),
        "--address",
        head.jobs,
    ]
    options += ["--python", sys.executable, "--start-limit", "60"]
    secret = tmp_path / "CANARY_PATH"
    secret.write_text(uuid4().hex)
    first = Command("submit", str(recipe), *options, **CANARIES, TRIBUTARY_REDIS_PASSWORD_FILE=str(secret))
    until(lambda: len(rows_of(run)) > 30 or first.process.poll() is not None, 300, "training")
    job = head.job()
    assert "deploy.cli train" in job["entrypoint"] and job["status"] == "RUNNING", first.finish()
    assert any("ActorProcess" in title for title in head.alive())

    first.kill()  # the client that follows the job: the job itself continues
    again = Command("submit", str(recipe), *options)
    until(lambda: exported(head) >= METRICS.keys() - RARE, 180, "metrics of every process")
    head.ray("job", "stop", "--address", head.jobs, job["submission_id"])
    output = again.finish(180)
    assert again.process.returncode == 1, "a job that was stopped did not succeed: " + output
    assert head.job()["submission_id"] == job["submission_id"], "it was followed, not submitted a second time"
    until(lambda: head.alive() == [], 60, "the end of our processes")
    assert (run / "adapter" / "version.json").exists(), "written within the time that Ray gives a stopped job"
    reached, checkpoints = len(rows_of(run)), sorted((run / "checkpoints").glob("*.safetensors"))
    assert checkpoints and reached > 30

    overrides = [f"learner.steps={reached + 20}", "actors.engine=simulated"]
    third = Command("submit", str(recipe), *overrides, *options[1:])
    output = third.finish()
    assert third.process.returncode == 0, output
    assert "Resuming after step" in output
    assert [row["step"] for row in rows_of(run)] == list(range(1, reached + 21)), "every step was done once"
    until(lambda: head.alive() == [], 60, "the end of our processes")

    assert_no_secret_in_session_folder(head, run, secret.read_text())


def assert_no_secret_in_session_folder(head: Head, run: Path, in_file: str) -> None:
    """Neither what `submit` had in its environment nor the password of the run's own Redis is in a file or an answer of Ray."""
    password = re.search(r"^requirepass ([0-9a-f]{48})$", (run / "buffer" / "redis.conf").read_text(), re.MULTILINE)
    assert password
    [session] = {m[0] for title in head.titles() if (m := re.search(r"/\S+/session_[0-9_-]+(?=/)", title))}
    files = [path for path in Path(session).rglob("*") if path.is_file()]
    assert any(path.name == "runtime_env_agent.log" for path in files)
    contents = {str(path): path.read_bytes() for path in files}
    for route in ("api/jobs/", "api/v0/runtime_envs", "api/v0/tasks?detail=1", "api/v0/actors?detail=1"):
        with urllib.request.urlopen(f"{head.jobs}/{route}") as response:
            contents[route] = response.read()
    assert b"CANARY_PATH" in contents["api/jobs/"], "where a secret passed on would be"
    for secret in (in_file, *CANARIES.values(), password[1]):
        assert [name for name, content in contents.items() if secret.encode() in content] == []


def exported(head: Head) -> set[str]:
    """Names of the metrics of Tributary that Prometheus would scrape."""
    with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics}/metrics") as response:
        lines = response.read().decode().splitlines()
    names = {line.split("{")[0].removeprefix("ray_") for line in lines if line.startswith("ray_tributary_")}
    return {name.removesuffix("_total") for name in names}


def start_cluster(pool: dict[str, Any], tries: int = 3) -> tuple[Any, list[Any]]:
    """A head and two nodes of a pool; tries again as `head` does, for the same reason."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=2, include_dashboard=False)
        return cluster, [cluster.add_node(**pool) for _ in range(2)]
    except Exception:
        cluster.shutdown()
        if tries == 1:
            raise
    return start_cluster(pool, tries - 1)


def test_a_run_survives_the_loss_of_a_node_and_is_scaled_while_it_trains(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    pool = {"labels": {"pool": "actors"}, "num_cpus": 2}
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    cluster, nodes = start_cluster(pool)
    try:
        run = tmp_path / "run"
        command = Command(
            "train", str(recipe), "actors.engine=simulated", "actors.advanced.simulated_rate=40.0", "actors.count=3", "actors.advanced.cpus=1.0",
            'actors.advanced.labels={pool="actors"}', "learner.steps=1000000", "evaluation.samples=64", "--run", str(run),
            RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled",
        )  # fmt: skip
        until(lambda: len(rows_of(run)) > 5 or command.process.poll() is not None, 300, "training")
        until(lambda: (run / "members.json").exists(), 60, "the first look at the processes")
        assert members(run) == {"actor": 3, "reward": 1, "learner": 1}

        cluster.remove_node(nodes[0], allow_graceful=False)
        until(lambda: members(run)["actor"] < 3, 180, "the run noticing that actors died")
        reached = len(rows_of(run))
        until(
            lambda: sum(row["fresh"] for row in rows_of(run)[reached:]) > 200,
            180,
            "fresh trajectories without the node",
        )

        fewer = Command("scale", "actors=2", "rewards=2", "--run", str(run))
        assert fewer.finish() and fewer.process.returncode == 0
        assert members(run) == {"actor": 2, "reward": 2, "learner": 1}
        cluster.add_node(**pool)
        more = Command("scale", "actors=4", "--run", str(run))
        output = more.finish()
        assert more.process.returncode == 0 and "4/4 actors ready" in output, output
        reached = len(rows_of(run))
        until(lambda: len(rows_of(run)) > reached + 20, 180, "more steps")
        command.process.terminate()
        output = command.finish(180)
        assert command.process.returncode == 0, output
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert {"restart", "joined", "scaled"} <= {event.get("kind") for event in events}
        assert all(event["run"] and event["role"] == "driver" and event["release"] for event in events)
    finally:
        cluster.shutdown()


def members(run: Path) -> dict[str, int]:
    return dict(json.loads((run / "members.json").read_text()))


def test_scaling_a_run_that_does_not_train_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    command = Command("scale", "actors=2", "--run", str(tmp_path))
    assert "no run trains in" in command.finish() and command.process.returncode == 2
