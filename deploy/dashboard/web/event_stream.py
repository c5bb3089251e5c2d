"""News as they come: server-sent events, one stream a page.

consumes   the run's history, looked at once a second
produces   tick, heartbeat, reset, as docs/dashboard-api.md tells
waits for  news
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

LOOK_EVERY_S = 1.0
HEARTBEAT_S = 15.0
RECONNECT_MS = 2000
MOST_EVENTS = 50
_TABLES = ("learner", "moments", "samples", "events")


class News:
    """What one stream has told so far. `look` may take its time: call it in a thread."""

    def __init__(self, run: RunReader, last_event_id: str | None) -> None:
        """`last_event_id` is the cursor that a returning client saw last."""
        self._run = run
        self._generation, self._row = _cursor(last_event_id)
        self._state: object = None

    def look(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """(event, id, data) of what is new; empty where nothing is."""
        run = self._run
        with run.lock:
            run.refresh()
            found: list[tuple[str, str | None, dict[str, Any]]] = []
            if self._generation not in (None, run.generation):
                found.append(("reset", None, {"reason": "the run's history was begun anew"}))
                self._row = 0
            self._generation = run.generation
            said = overview(run)
            row = run.cursor
            state = (row, said["state"], [part["state"] for part in said["components"]])
            if state == self._state:
                return found
            fresh = {table: self._count(table) for table in _TABLES}
            news = events(run, (), None, MOST_EVENTS, after=self._row)["events"]
            tick = {"cursor": said["cursor"], "overview": said, "fresh": fresh, "events": news}
            self._row, self._state = row, state
            return [*found, ("tick", said["cursor"], tick)]

    def _count(self, table: str) -> int:
        rows = self._run.query(f"SELECT COUNT(*) AS n FROM {table} WHERE id > ?", [self._row])
        return int(rows[0]["n"]) if rows else 0


async def stream(run: RunReader, last_event_id: str | None, stopping: threading.Event) -> AsyncIterator[str]:
    """The text of a stream, until the client goes or `stopping` is set."""
    news, said_at = News(run, last_event_id), time.monotonic()
    yield f"retry: {RECONNECT_MS}\n\n"
    ending = False
    while not ending:
        ending = stopping.is_set()  # then one more look, for the last words of a run
        try:
            found = await run_sync(news.look)
        except HistoryUnreadable as error:
            found = [("trouble", None, {"error": str(error)})]
        if not found and time.monotonic() - said_at > HEARTBEAT_S:
            found = [("heartbeat", None, {"now": time.time()})]
        for event, number, data in found:
            said_at = time.monotonic()
            yield _message(event, number, data)
        if not ending:
            await _pause(stopping)


async def _pause(stopping: threading.Event) -> None:
    """LOOK_EVERY_S, or less where the server ends."""
    for _ in range(10):
        if stopping.is_set():
            return
        await anyio.sleep(LOOK_EVERY_S / 10)


def _message(event: str, number: str | None, data: dict[str, Any]) -> str:
    """One event; JSON has no line breaks of its own, so one data line is enough."""
    identified = f"id: {number}\n" if number else ""
    return f"event: {event}\n{identified}data: {json.dumps(plain(data), allow_nan=False)}\n\n"


def _cursor(text: str | None) -> tuple[int | None, int]:
    """(generation, row) of GENERATION.ROW; one that is none of ours is a client that knows nothing."""
    found = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,15})", text or "")
    return (int(found[1]), int(found[2])) if found else (None, 0)
