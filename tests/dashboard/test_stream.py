"""The event stream of a run: first connection, updates, reconnection."""

import json
import threading
import time
from pathlib import Path

import httpx
import pytest

from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.web import event_stream
from deploy.dashboard.web.event_stream import EventSource
from deploy.telemetry.event_detector import Event
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.recorder import FILE
from tests.support.fixture_runs import live_run, make_run
from tests.support.processes import until
from tests.support.running import running


@pytest.fixture
def reader(tmp_path: Path):
    run = RunReader(make_run(tmp_path / "run", "live"), "run", primary=True)
    yield run
    run.close()


def add_event(folder: Path, text: str) -> None:
    store = HistoryStore(folder / FILE)
    store.event(time.time(), 80, Event("version", "info", "learner", text))
    store.commit()
    store.close()


def ticks(source: EventSource) -> list[dict]:
    return [data for event, _, data in source.poll() if event == "tick"]


def test_a_new_page_gets_the_state_of_the_run_and_then_only_changes(reader):
    source = EventSource(reader, None)
    (first,) = ticks(source)
    assert first["overview"]["step"] == 80 and first["events"][-1]["kind"] == "start"
    assert source.poll() == []
    add_event(reader.folder, "Version 81 was published.")
    (second,) = ticks(source)
    assert [event["text"] for event in second["events"]] == ["Version 81 was published."]
    assert second["fresh"] == {"learner": 0, "snapshots": 0, "samples": 0, "events": 1}


def test_a_reconnecting_page_gets_exactly_what_it_missed(reader):
    source = EventSource(reader, None)
    cursor = ticks(source)[0]["cursor"]
    add_event(reader.folder, "Version 81 was published.")
    (missed,) = ticks(EventSource(reader, cursor))
    assert [event["text"] for event in missed["events"]] == ["Version 81 was published."]


def test_a_page_of_an_earlier_generation_of_the_run_is_reset(reader):
    cursor = ticks(EventSource(reader, None))[0]["cursor"]
    store = HistoryStore(reader.folder / FILE)
    store.begin(40)
    store.commit()
    store.close()
    events = EventSource(reader, cursor).poll()
    assert [event for event, _, _ in events] == ["reset", "tick"]
    assert events[1][2]["overview"]["step"] == 40


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "1", "1.x", "-1.-1", "9" * 40, "1." + "9" * 40, "\u0661.\u0662", "\u00b2.\u00b3"]
)
def test_an_invalid_cursor_is_treated_as_a_new_page(reader, cursor):
    (first,) = ticks(EventSource(reader, cursor))
    assert first["events"][-1]["kind"] == "start"


def test_a_silent_stream_sends_heartbeats_and_ends_with_the_server(reader, monkeypatch):
    import anyio

    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(event_stream, "POLL_INTERVAL_S", 0.01)
    stopping = threading.Event()

    async def listen() -> list[str]:
        messages = []
        async for text in event_stream.stream(reader, None, stopping):
            messages.append(text)
            if len(messages) == 5:
                stopping.set()
        return messages

    messages = anyio.run(listen)
    assert messages[0] == "retry: 2000\n\n" and messages[1].startswith("event: tick\nid: 1.")
    assert all(text.startswith("event: heartbeat\ndata: ") for text in messages[2:])


def events(lines):
    """(event, id, data) of a stream's lines."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        elif "data" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}


def test_a_page_follows_a_live_run_over_a_restart_of_the_server(tmp_path):
    with live_run(tmp_path / "run") as run:
        with running("--run", str(run)) as server:
            with httpx.stream("GET", f"{server.url}api/stream", timeout=20) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                received = events(answer.iter_lines())
                steps, cursor = [], None
                while len(steps) < 3:
                    event, cursor, data = next(received)
                    if event == "tick":
                        steps.append(data["overview"]["step"])
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
        assert steps == sorted(steps) and steps[-1] > steps[0] and cursor
        with running("--run", str(run), port=port) as server:
            headers = {"Last-Event-ID": cursor}
            with httpx.stream("GET", f"{server.url}api/stream", timeout=20, headers=headers) as answer:
                event, _, data = next(events(answer.iter_lines()))
        assert event == "tick" and data["overview"]["step"] > steps[-1]
        assert not any(event["kind"] == "start" for event in data["events"]), "the page has received the start before"


def test_an_open_stream_does_not_hold_up_the_end_of_the_server(tmp_path):
    run = make_run(tmp_path / "run", "live")
    with (
        running("--run", str(run)) as server,
        httpx.stream("GET", f"{server.url}api/stream", timeout=20) as answer,
    ):
        next(answer.iter_lines())
        began = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - began < 20


def test_a_dashboard_of_a_run_ends_with_the_run_however_that_dies(tmp_path):
    import subprocess
    import sys

    from deploy.dashboard.web.sockets import address, listen
    from tests.support.running import ROOT

    run = make_run(tmp_path / "run", "live")
    with listen("127.0.0.1", 0) as listener:
        number, url = listener.fileno(), address(listener)
        command = [sys.executable, "-m", "deploy.cli", "dashboard", "--run", str(run), "--socket", str(number)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(number,), cwd=ROOT)
    try:
        until(lambda: httpx.get(f"{url}api/runs", timeout=60).status_code == 200, 120, "an answer")
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: process.poll() is not None, 60, "its end")
    finally:
        process.kill()
        process.wait()
