"""Server-sent events: one stream for each open page.

consumes   the run's history, polled once a second
produces   the events tick, heartbeat, trouble and reset (docs/dashboard-api.md)
waits for  new rows
unblocked by  the run, which writes once a second
"""

import json
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio.to_thread import run_sync

from deploy.artifacts.json_files import plain
from deploy.dashboard.data.run_reader import HistoryUnreadable, RunReader
from deploy.dashboard.views.overview import overview
from deploy.dashboard.views.runs import events

POLL_INTERVAL_S = 1.0
HEARTBEAT_S = 15.0
RECONNECT_MS = 2000
MAX_EVENTS = 50
_TABLES = ("learner", "snapshots", "samples", "events")


class EventSource:
    """The position of one stream in a run's history. `poll` reads files: call it in a thread."""

    def __init__(self, run: RunReader, last_event_id: str | None) -> None:
        """`last_event_id` is the last cursor that a reconnecting client received."""
        self._run = run
        self._generation, self._row = _cursor(last_event_id)
        self._state: object = None

    def poll(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """New events as (event, id, data); empty if nothing changed."""
        run = self._run
        with run.lock:
            run.refresh()
            messages: list[tuple[str, str | None, dict[str, Any]]] = []
            if self._generation not in (None, run.generation):
                messages.append(("reset", None, {"reason": "the run's history was started again"}))
                self._row = 0
            self._generation = run.generation
            view = overview(run)
            row = run.cursor
            state = (row, view["state"], [part["state"] for part in view["components"]])
            if state == self._state:
                return messages
            fresh = {table: self._count(table) for table in _TABLES}
            new_events = events(run, (), None, MAX_EVENTS, after=self._row)["events"]
            tick = {"cursor": view["cursor"], "overview": view, "fresh": fresh, "events": new_events}
            self._row, self._state = row, state
            return [*messages, ("tick", view["cursor"], tick)]

    def _count(self, table: str) -> int:
        rows = self._run.query(f"SELECT COUNT(*) AS n FROM {table} WHERE id > ?", [self._row])
        return int(rows[0]["n"]) if rows else 0


async def stream(run: RunReader, last_event_id: str | None, stopping: threading.Event) -> AsyncIterator[str]:
    """The text of a stream, until the client disconnects or `stopping` is set."""
    source, sent_at = EventSource(run, last_event_id), time.monotonic()
    yield f"retry: {RECONNECT_MS}\n\n"
    ending = False
    while not ending:
        ending = stopping.is_set()  # then one last poll, for the final events of a run
        try:
            messages = await run_sync(source.poll)
        except HistoryUnreadable as error:
            messages = [("trouble", None, {"error": str(error)})]
        if not messages and time.monotonic() - sent_at > HEARTBEAT_S:
            messages = [("heartbeat", None, {"now": time.time()})]
        for event, number, data in messages:
            sent_at = time.monotonic()
            yield _message(event, number, data)
        if not ending:
            await _pause(stopping)


async def _pause(stopping: threading.Event) -> None:
    """Sleep POLL_INTERVAL_S, or less if the server stops."""
    for _ in range(10):
        if stopping.is_set():
            return
        await anyio.sleep(POLL_INTERVAL_S / 10)


def _message(event: str, number: str | None, data: dict[str, Any]) -> str:
    """One event as text; JSON contains no line breaks, so one data line is enough."""
    identified = f"id: {number}\n" if number else ""
    return f"event: {event}\n{identified}data: {json.dumps(plain(data), allow_nan=False)}\n\n"


def _cursor(text: str | None) -> tuple[int | None, int]:
    """(generation, row) of a cursor GENERATION.ROW; any other text is treated as a new client."""
    match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,15})", text or "")
    return (int(match[1]), int(match[2])) if match else (None, 0)
