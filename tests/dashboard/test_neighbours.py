"""Run folders next to one's own belong to other people: nothing in them may leak a file, hang a page or hide a run."""

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deploy.dashboard.data import run_reader
from deploy.dashboard.data.run_index import Runs
from deploy.dashboard.web.api import MAX_STREAMS
from deploy.dashboard.web.security import access
from deploy.dashboard.web.server import application
from tests.dashboard.conftest import BASE, Client

SECRET = "SECRET-of-the-victim"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.fixture
def neighbour(finished: Path) -> Path:
    """A copy of the finished run, next to it."""
    folder = finished.parent / "neighbour"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished, folder)
    return folder


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "evaluation.json", "metrics.jsonl", "history.sqlite"])
def test_links_in_a_neighbours_folder_are_not_followed(
    client: Client, finished: Path, neighbour: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret"
    match name:
        case "config.toml":
            secret.write_text(f'[registry]\ntoken = "{SECRET}"\n')
        case "metrics.jsonl":
            secret.write_text(f'{{"step": 1, "labels": {{"{SECRET}": 1.0}}}}\n')
        case "history.sqlite":
            shutil.copy(finished / name, secret)
            with sqlite3.connect(secret) as history:
                history.execute("UPDATE events SET data = ?", (SECRET,))
        case _:
            secret.write_text(f'{{"metrics": {{"{SECRET}": 1.0}}}}')
    (neighbour / name).unlink(missing_ok=True)
    (neighbour / name).symlink_to(secret)
    if name == "metrics.jsonl":
        (neighbour / "history.sqlite").unlink()
    with client(finished) as page:
        page.get("/api/runs")
        routes = (
            "compare?runs=finished,neighbour",
            "events?run=neighbour",
            "overview?run=neighbour",
            "catalog?run=neighbour",
        )
        assert [page.get(f"/api/{route}").text.count(SECRET) for route in routes] == [0, 0, 0, 0]
        assert page.get("/api/overview").status_code == 200
    reader = run_reader.RunReader(neighbour, "listed before the link was made", primary=False)
    assert SECRET not in f"{reader.config()} {reader.summary()} {reader.evaluation()}"


def endless_view(history: sqlite3.Connection) -> None:
    history.execute("DROP TABLE learner")
    history.execute(f"CREATE VIEW learner AS {ENDLESS} i AS id, 0.0 AS at, 1 AS step, '{{}}' AS data FROM n")


def virtual_table(history: sqlite3.Connection) -> None:
    history.execute("DROP TABLE events")
    history.execute("CREATE VIRTUAL TABLE events USING fts5(id, at, step, kind, level, who, data)")


def deep_json(history: sqlite3.Connection) -> None:
    history.execute("UPDATE meta SET value = ?", ("[" * 100_000,))


def wrong_types(history: sqlite3.Connection) -> None:
    history.execute("UPDATE meta SET value = '[1, 2]'")


def fifo(folder: Path) -> None:
    (folder / "config.toml").unlink()
    os.mkfifo(folder / "config.toml")


def deep_toml(folder: Path) -> None:
    (folder / "config.toml").write_text("a = " + "[" * 100_000)


@pytest.mark.parametrize("spoil", [endless_view, virtual_table, deep_json, wrong_types])
def test_a_hostile_history_neither_hangs_nor_hides_the_list_of_runs(
    client: Client, finished: Path, neighbour: Path, spoil: Callable[[sqlite3.Connection], None]
) -> None:
    with sqlite3.connect(neighbour / "history.sqlite") as history:
        spoil(history)
    with client(finished) as page:
        began = time.monotonic()
        listed = [run["id"] for run in page.get("/api/runs").json()["runs"]]
        for route in ("overview", "events", "curves?names=learner.loss"):
            page.get(f"/api/{route}{'&' if '?' in route else '?'}run=neighbour")
            assert page.get(f"/api/{route}").status_code == 200
        assert time.monotonic() - began < 20
    assert "finished" in listed


@pytest.mark.parametrize("spoil", [fifo, deep_toml])
def test_a_hostile_recipe_neither_hangs_nor_hides_the_list_of_runs(
    client: Client, finished: Path, neighbour: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(neighbour)
    with client(finished) as page:
        assert "finished" in [run["id"] for run in page.get("/api/runs").json()["runs"]]
        assert page.get("/api/compare?runs=finished,neighbour").status_code in (200, 404)


def test_a_query_that_takes_too_long_is_ended(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reader, "QUERY_LIMIT_S", 0.2)
    reader = run_reader.RunReader(finished, "finished", primary=True)
    with pytest.raises(run_reader.HistoryUnreadable, match="interrupted"):
        reader.query(f"{ENDLESS} COUNT(*) FROM n")
    assert reader.query("SELECT 1 AS one")[0]["one"] == 1
    reader.close()


def test_streams_opened_at_the_same_moment_do_not_exceed_the_limit(finished: Path) -> None:
    runs, stopping = Runs([finished]), threading.Event()
    app = application(runs, access("127.0.0.1", 8710, None), stopping)

    async def open_all(number: int) -> list[int]:
        transport = httpx.ASGITransport(app=app)  # it returns once a stream has ended
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as page:
            requests = [asyncio.create_task(page.get("/api/stream")) for _ in range(number)]
            refused, _ = await asyncio.wait(requests, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            while len(refused) < number - MAX_STREAMS:
                await asyncio.sleep(0)
                refused = {request for request in requests if request.done()}
            stopping.set()
            return [(await request).status_code for request in requests]

    codes = asyncio.run(open_all(MAX_STREAMS + 8))
    assert (codes.count(200), codes.count(503)) == (MAX_STREAMS, 8)
    assert set(asyncio.run(open_all(MAX_STREAMS))) == {200}, "places are free again"
    runs.close()
