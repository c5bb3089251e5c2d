"""A buffer polled through Redis: with the rights of the user `dashboard`, and after its server has stopped."""

import threading
from pathlib import Path

import pytest
import redis
from starlette.testclient import TestClient

from buffer.config import BufferConfig
from buffer.errors import ConfigError
from buffer.replay import ReplayBuffer
from buffer.server.connect import PASSWORD_VARIABLE, connect
from buffer.server.redis_server import RedisServer
from buffer.types import Prompt, given_trajectory
from deploy.dashboard.data.redis_poller import RedisPoller
from deploy.dashboard.data.run_index import Runs
from deploy.dashboard.web.security import access
from deploy.dashboard.web.server import application
from tests.dashboard.conftest import BASE
from tests.support.fixture_runs import make_run

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "only-for-this-test"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with RedisServer.start(tmp_path / "redis") as running:
        yield running


def filled(url: str) -> ReplayBuffer:
    import numpy as np

    buffer = ReplayBuffer(connect(url), BufferConfig(min_size_to_sample=1), "watched")
    prompt = Prompt("p", "text", np.array([1], np.int32))
    log_reward = np.array([[-2.0, -1.0, 0.0]], np.float32)
    buffer.add(
        [given_trajectory(prompt, np.array([k, k], np.int32), "given", log_reward, ("base",)) for k in range(30)]
    )
    buffer.draw(4, 4, np.random.default_rng(0))
    return buffer


def page(runs: Runs) -> TestClient:
    return TestClient(application(runs, access("127.0.0.1", 8710, None), threading.Event()), base_url=BASE)


def as_dashboard(url: str) -> str:
    """Add the user of the ACL file to the server; returns its address for that user."""
    rules = next(
        line.split()
        for line in (ROOT / "deploy/redis/users.acl").read_text().splitlines()
        if line.startswith("user dashboard ")
    )
    shown = [f">{PASSWORD}" if rule.startswith("#0000") else rule for rule in rules[2:]]
    with connect(url) as client:
        client.execute_command("ACL", "SETUSER", "dashboard", "reset", *shown)
    host = url.rsplit("@", 1)[1]
    return f"redis://dashboard:{PASSWORD}@{host}"


def test_the_buffer_is_shown_with_no_more_rights_than_the_dashboards_own(server: RedisServer):
    filled(server.url)
    url = as_dashboard(server.url)
    live = RedisPoller(url, "watched", 0)
    live.read()
    assert live.error is None
    with page(Runs([], live)) as client:
        view = client.get("/api/buffer").json()
        assert view["source"] == "redis" and view["now"]["size"] == 30 and view["now"]["drawn"] == 8
        assert client.get("/api/overview").json()["state"] == "running"
        live.read()
        assert client.get("/api/curves?names=buffer.size&x=time").json()["curves"]["buffer.size"]["y"][-1] == 30
        for route in ("rewards", "posterior", "actors", "samples", "events", "prompts", "catalog", "runs"):
            assert client.get(f"/api/{route}").status_code == 200, route
    with connect(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.hset("{tributary:watched}:counters", "size", 0)
    assert PASSWORD not in live.address


def test_a_stopped_server_is_reported_as_down_and_reconnected_automatically(server: RedisServer, tmp_path: Path):
    filled(server.url)
    live = RedisPoller(server.url, "watched", 0)
    runs = Runs([make_run(tmp_path / "run", "live")], live)
    with page(runs) as client:
        live.read()
        assert {"name": "redis", "role": "redis", "state": "running", "detail": "answers"} in client.get(
            "/api/overview"
        ).json()["components"]
        server.kill()
        live.read()
        view = client.get("/api/overview").json()
        down = next(part for part in view["components"] if part["name"] == "redis")
        assert down["state"] == "down" and "does not answer" in down["detail"]
        buffer = client.get("/api/buffer").json()
        assert buffer["error"] and buffer["now"]["size"] == 30, "the last reading stays and is marked as old"
        with RedisServer.start(tmp_path / "redis", server.port):
            live.read()
            assert client.get("/api/buffer").json()["error"] is None
    runs.close()


def test_a_wrong_password_is_reported_and_not_shown():
    live = RedisPoller("redis://user:secret-word@127.0.0.1:1/0", "watched", 0)
    live.read()
    assert live.error is not None and "secret-word" not in live.error
    with page(Runs([], live)) as client:
        view = client.get("/api/overview").json()
        assert view["state"] == "down" and "secret-word" not in str(view)
        assert client.get("/api/buffer").json()["now"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "dashboard needs --run"), (["--redis", "redis://127.0.0.1:1"], "needs --name"), (["--redis", "redis://127.0.0.1:1", "--name", "a{b"], "buffer name"), (["--run", "/nowhere"], "is not the folder of a run")],
)  # fmt: skip
def test_the_command_reports_missing_options(arguments, message):
    from typer.testing import CliRunner

    from deploy.cli import app

    result = CliRunner().invoke(app, ["dashboard", *arguments])
    assert isinstance(result.exception, ConfigError) and message in str(result.exception)


def test_a_taken_port_is_rejected_by_number_and_the_default_port_is_replaced():
    from deploy.dashboard.web.sockets import address, listen

    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*--port"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", None) as default, listen("127.0.0.1", None) as other:
        assert address(default) != address(other)
