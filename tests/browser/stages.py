"""Dashboards in the states that a page has to show, started when they are first asked for."""

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.support.fixture_runs import live_run, make_run
from tests.support.running import Running, running

TOKEN = "a-token-that-nobody-guesses"
STATES = ("live", "empty", "stale", "redis_down", "token", "long")
"""long: 10^5 learner steps. token: a page that was given a wrong one."""
SAYS = {
    "live": "● live",
    "empty": "yet",
    "stale": "▲ stale",
    "redis_down": "Redis",
    "token": "needs a token",
    "long": "100,000",
}
"""Words that the first view has in each."""


class Stages:
    """One dashboard a state; all end together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[str, Running] = {}

    def at(self, state: str) -> Running:
        """The dashboard of a state: one of STATES, or of the made runs."""
        if state not in self._running:
            self._running[state] = self._start(state)
        return self._running[state]

    def close(self) -> None:
        """End them."""
        self._stack.close()

    def _start(self, state: str) -> Running:
        folder = self._folder / state / state
        folder.parent.mkdir()
        environment = {"TRIBUTARY_DASHBOARD_TOKEN": TOKEN} if state == "token" else {}
        more = ["--redis", f"redis://127.0.0.1:{_nobody()}/0"] if state == "redis_down" else []
        if state in ("live", "redis_down"):
            self._stack.enter_context(live_run(folder, steps_per_s=4.0, steps=4000))
        else:
            make_run(folder, "finished" if state == "token" else state)
        if state == "finished":
            make_run(folder.parent / "another", "stopped")
        return self._stack.enter_context(running("--run", str(folder), *more, environment=environment))


def _nobody() -> int:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
