"""Dashboards in every state that the page has to show, each started at its first use."""

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.support.fixture_runs import CONFIG, live_run, make_run
from tests.support.running import Running, running

TOKEN = "a-token-that-nobody-guesses"
STATES = ("live", "empty", "stale", "redis_down", "token", "long")
"""long: 10^5 learner steps. token: a dashboard that requires a token."""
EXPECTED_TEXT = {
    "live": "● live",
    "empty": "yet",
    "stale": "▲ stale",
    "redis_down": "Redis",
    "token": "needs a token",
    "long": "100,000",
}
"""Text on the overview in each state."""


class Stages:
    """One dashboard per state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[str, Running] = {}

    def at(self, state: str) -> Running:
        """The dashboard of one of STATES, of a state of fixture_runs, or of "seeds": three runs and another one."""
        if state not in self._running:
            self._running[state] = self._start(state)
        return self._running[state]

    def close(self) -> None:
        """Stop all dashboards."""
        self._stack.close()

    def _start(self, state: str) -> Running:
        folder = self._folder / state / state
        folder.parent.mkdir()
        environment = {"TRIBUTARY_DASHBOARD_TOKEN": TOKEN} if state == "token" else {}
        redis = ["--redis", f"redis://127.0.0.1:{_unused_port()}/0"] if state == "redis_down" else []
        if state in ("live", "redis_down"):
            self._stack.enter_context(live_run(folder, steps_per_s=4.0, steps=4000))
        else:
            make_run(folder, "finished" if state in ("token", "seeds") else state)
        if state == "finished":
            make_run(folder.parent / "another", "stopped")
        if state == "seeds":
            make_run(folder.parent / "second", "finished", CONFIG | {"seed": 1})
            make_run(folder.parent / "third", "stopped", CONFIG | {"seed": 2})
            make_run(folder.parent / "other", "finished", CONFIG | {"model": {"name": "other"}})
        return self._stack.enter_context(running("--run", str(folder), *redis, environment=environment))


def _unused_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
