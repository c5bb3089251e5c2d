"""`docker compose up` on a real engine, as a drill: one run goes through all of it, so the tests need this order.

make test-compose        builds the image first, which takes many minutes if nothing of it is cached
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.compose import engine
from tests.compose.engine import ROOT, Project
from tests.support.processes import until
from tests.support.tiny import make_tiny_model

HERE = Path(__file__).parent
RUN = "/runs/drill"
MORE_STEPS = 500
"""Steps that remain for the end of the run; before that, learner.steps is more than the run reaches."""
START_LIMIT_S = 600.0
RECOVERY_LIMIT_S = 120.0
RUN_LIMIT_S = 1200.0

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The CPU profile, up, with a run that trains; removed in any case."""
    if reason := engine.missing_engine():
        pytest.skip(reason)
    engine.build()
    folder = tmp_path_factory.mktemp("compose")
    tasks = folder / "tasks"
    (tasks / "tests" / "support").mkdir(parents=True)
    shutil.copy(HERE / "tiny.toml", tasks)
    for name in ("tiny.py", "oracle.py"):
        shutil.copy(ROOT / "tests" / "support" / name, tasks / "tests" / "support")
    for file in make_tiny_model(folder / "model").iterdir():
        file.chmod(0o644)  # the container's user is not ours
    secrets = folder / "secrets"
    subprocess.run(["sh", "deploy/docker/secrets.sh", str(secrets)], cwd=ROOT, check=True)
    settings = {
        "SECRETS": str(secrets), "TASKS": str(tasks), "TINY_MODEL": str(folder / "model"),
        "RECIPE": "/tasks/tiny.toml", "RUN": "drill", "RAY_PORT": "0", "DASHBOARD_PORT": "0",
    }  # fmt: skip
    project = Project(f"tributary-{uuid4().hex[:8]}", settings, HERE / "override.yml")
    try:
        project.compose("up", "--detach", "--no-build", limit_s=START_LIMIT_S)
        until(lambda: steps(project) > 20, START_LIMIT_S, "training in the containers")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "10")


def rows(project: Project) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl so far."""
    text = project.run_in("ray", "sh", "-c", f"cat {RUN}/metrics.jsonl 2>/dev/null || true")
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def steps(project: Project) -> int:
    """Number of the last step."""
    return max((row["step"] for row in rows(project)), default=0)


def wait_for_steps(project: Project) -> None:
    """Wait until 20 further steps are done."""
    done = steps(project)
    until(lambda: steps(project) > done + 20, RECOVERY_LIMIT_S, f"training beyond step {done}")


def resumed(project: Project) -> int:
    """How often the run has been resumed, by its log."""
    return project.compose("logs", "run").count("Resuming after step ")


def summary(project: Project) -> dict[str, Any]:
    """Content of summary.json."""
    values: dict[str, Any] = json.loads(project.run_in("ray", "cat", f"{RUN}/summary.json"))
    return values


def buffer_stats(project: Project) -> dict[str, Any]:
    """Statistics of the run's buffer."""
    values: dict[str, Any] = json.loads(project.run_in("ray", "tributary", "buffer", "stats", "--run", RUN, "--json"))
    return values


def jobs(project: Project) -> list[dict[str, Any]]:
    """All jobs that were submitted to Ray."""
    script = (
        "import json; from ray.job_submission import JobSubmissionClient as C; "
        "print(json.dumps([{'id': j.submission_id, 'status': j.status.value} "
        "for j in C('http://127.0.0.1:8265').list_jobs() if j.submission_id]))"
    )
    submitted: list[dict[str, Any]] = json.loads(project.run_in("ray", "python", "-c", script).splitlines()[-1])
    return submitted


@pytest.mark.parametrize("service", ["redis", "ray", "run", "dashboard"])
def test_a_container_has_no_rights_and_nothing_to_write_but_its_volumes(project: Project, service: str) -> None:
    status = project.run_in(service, "sh", "-c", "cat /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4 and fields["Gid"].split() == ["10001"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0 and fields["NoNewPrivs"] == "1"
    assert project.inspect(service)["HostConfig"]["ReadonlyRootfs"] is True
    output = project.run_in(service, "sh", "-c", "touch /app/x /opt/venv/x /etc/x 2>&1 || true")
    assert output.count("Read-only file system") == 3


def test_ray_is_published_on_loopback_and_redis_is_not_published(project: Project) -> None:
    bindings = project.inspect("ray")["HostConfig"]["PortBindings"]
    assert [b["HostIp"] for of_port in bindings.values() for b in of_port] == ["127.0.0.1"]
    assert not project.inspect("redis")["HostConfig"]["PortBindings"]
    assert list(project.inspect("redis")["NetworkSettings"]["Networks"]) == [f"{project.name}_store"]
    assert json.loads(engine.docker("network", "inspect", f"{project.name}_store"))[0]["Internal"] is True


def test_a_job_without_the_token_is_rejected(project: Project) -> None:
    post = (
        "import urllib.request as r, urllib.error\n"
        "q = r.Request('http://ray:8265/api/jobs/', b'{\"entrypoint\": \"true\"}', {'Content-Type': 'application/json'})\n"
        "try: print(r.urlopen(q).status)\n"
        "except urllib.error.HTTPError as e: print(e.code)\n"
    )
    assert project.run_in("run", "python", "-c", post).strip() == "401"
    assert len(jobs(project)) == 1, "the run's own"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("", "already authenticated"),
        ("health:x@", "no permissions"),
        ("driver:not-the-password@", "invalid username-password"),
    ],
)
def test_redis_refuses_reads_without_a_password(project: Project, user: str, message: str) -> None:
    get = (
        "import redis\n"
        f"try: print(redis.Redis.from_url('redis://{user}redis:6379').get('x'))\n"
        "except redis.RedisError as e: print(e)\n"
    )
    assert message in project.run_in("ray", "python", "-c", get)


def test_no_password_is_in_an_environment_a_command_line_or_a_log(project: Project) -> None:
    passwords = [file.read_text() for file in project.secrets.iterdir()]
    shown = project.compose("logs", "--no-color") + project.compose("top")
    shown += "".join(json.dumps(project.inspect(service)) for service in ("redis", "ray", "model", "run", "dashboard"))
    shown += project.run_in("ray", "sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert "RAY_AUTH_TOKEN_PATH" in shown and len(passwords) == 6
    assert not [password for password in passwords if password in shown]


def test_the_dashboard_shows_the_run_only_to_those_with_its_token(project: Project) -> None:
    script = (
        "import json, sys, urllib.error, urllib.request as r\n"
        "def get(**headers):\n"
        "    try: return r.urlopen(r.Request('http://127.0.0.1:8710/api/overview', headers=headers)).read().decode()\n"
        "    except urllib.error.HTTPError as e: return str(e.code)\n"
        "token = open('/run/secrets/dashboard').read().strip()\n"
        "print(json.dumps([get(), get(Authorization='Bearer ' + token + 'x'), get(Authorization='Bearer ' + token)]))\n"
    )
    without, wrong, right = json.loads(project.run_in("dashboard", "python", "-c", script))
    assert without == wrong == "401"
    shown = json.loads(right)
    assert shown["name"] == "drill" and shown["phase"] == "training" and shown["step"] > 20
    states = {component["name"]: component["state"] for component in shown["components"]}
    assert {"learner", "actor-0", "reward-0", "buffer"} <= set(states), states
    published = project.inspect("dashboard")["HostConfig"]["PortBindings"]
    assert [binding["HostIp"] for of_port in published.values() for binding in of_port] == ["127.0.0.1"]


def test_a_killed_redis_is_restarted_with_its_data_and_the_run_continues(project: Project) -> None:
    before = buffer_stats(project)
    project.kill_process("redis")
    until(lambda: project.inspect("redis")["RestartCount"] == 1, RECOVERY_LIMIT_S, "Redis's restart")
    until(lambda: project.state("redis") == "running healthy", RECOVERY_LIMIT_S, "Redis's recovery")
    after = buffer_stats(project)
    assert all(after[total] >= before[total] for total in ("arrivals", "inserted", "drawn", "updated"))
    wait_for_steps(project)
    assert project.inspect("run")["RestartCount"] == 0 and len(jobs(project)) == 1, "nothing else was restarted"


def test_a_restarted_run_container_follows_the_running_job(project: Project) -> None:
    job = jobs(project)
    project.kill_process("run")
    until(lambda: project.inspect("run")["RestartCount"] == 1, RECOVERY_LIMIT_S, "the run's restart")
    until(lambda: project.state("run") == "running 0", RECOVERY_LIMIT_S, "the run's return")
    wait_for_steps(project)
    assert [j["id"] for j in jobs(project)] == [j["id"] for j in job], "no second job"


def test_after_a_killed_ray_head_the_run_is_resubmitted_and_resumes_from_its_checkpoint(project: Project) -> None:
    until(lambda: steps(project) > 100, RECOVERY_LIMIT_S, "two checkpoints")
    project.kill_process("ray")
    until(lambda: project.inspect("ray")["RestartCount"] == 1, RECOVERY_LIMIT_S, "Ray's restart")
    until(lambda: resumed(project) == 1, START_LIMIT_S, "the second job")
    wait_for_steps(project)
    assert len(jobs(project)) == 1, "one job was submitted to the new head"


def test_a_stopped_run_saves_its_adapter_and_resumes_when_it_is_restarted(project: Project) -> None:
    project.compose("stop", "run")
    assert summary(project)["stopped_by"] == "SIGTERM"
    assert summary(project)["steps"] == steps(project)
    project.settings["OVERRIDES"] = f"learner.steps={steps(project) + MORE_STEPS}"
    project.compose("up", "--detach", "--no-build", limit_s=START_LIMIT_S)  # recreates the container, with a new log
    until(lambda: resumed(project) == 1, START_LIMIT_S, "the third job")
    wait_for_steps(project)


def test_the_run_and_its_container_end_without_an_error(project: Project) -> None:
    until(lambda: project.state("run").startswith("exited"), RUN_LIMIT_S, "the run's end")
    assert project.state("run") == "exited 0", project.compose("logs", "run")
    done = summary(project)["steps"]
    assert project.settings["OVERRIDES"] == f"learner.steps={done}" and summary(project)["stopped_by"] is None
    assert [row["step"] for row in rows(project)] == list(range(1, done + 1)), "every step was done once"
    metrics = summary(project)["metrics"]
    assert metrics["after"]["total_variation"] < 0.1 < metrics["before"]["total_variation"]


def test_down_ends_with_0_and_keeps_the_volumes(project: Project) -> None:
    volumes = project.volumes()
    project.compose("down")  # raises where it does not end with 0
    assert not project.compose("ps", "--all", "--quiet").strip()
    assert project.volumes() == volumes == {f"{project.name}_{name}" for name in ("buffer", "models", "runs")}
    kept = json.loads(project.read_volume("runs", ["cat", "/volume/drill/summary.json"]))
    assert project.settings["OVERRIDES"] == f"learner.steps={kept['steps']}"
    assert "appendonlydir" in project.read_volume("buffer", ["ls", "/volume"])
