"""Dashboards without a browser: the ASGI application on run folders of every state."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from deploy.dashboard.data.run_index import Runs
from deploy.dashboard.web.security import access
from deploy.dashboard.web.server import application
from tests.support.fixture_runs import make_run

BASE = "http://127.0.0.1:8710"
Client = Callable[..., TestClient]


@pytest.fixture
def client() -> Iterator[Client]:
    """Makes clients of dashboards: client(folder, ..., token=None)."""
    opened: list[Runs] = []

    def make(*folders: Path, token: str | None = None) -> TestClient:
        runs = Runs(folders)
        opened.append(runs)
        app = application(runs, access("127.0.0.1", 8710, token), threading.Event())
        return TestClient(app, base_url=BASE, raise_server_exceptions=False)

    yield make
    for runs in opened:
        runs.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, shared by the tests of a module: do not change it."""
    return make_run(tmp_path_factory.mktemp("runs") / "finished", "finished")
