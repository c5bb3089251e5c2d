"""Change the number of actors and reward workers of a run while it trains.

`tributary scale` writes a request into the run's folder. The run reads it twice a second and writes the number of
running processes next to it. The two share nothing else, so this works wherever the folder is visible.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from buffer.errors import ConfigError, WaitTimeout
from deploy.artifacts.json_files import write_json
from deploy.artifacts.run_folder import RunFolder

_REQUEST, _MEMBERS = "wanted.json", "members.json"
POLL_S = 0.5
MAX_PROCESSES = 10_000


class ScaleRequest(BaseModel):
    """The content of wanted.json: number of processes per role; None leaves it unchanged."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    actors: int | None = Field(default=None, ge=1, le=MAX_PROCESSES)
    rewards: int | None = Field(default=None, ge=1, le=MAX_PROCESSES)

    @classmethod
    def parse(cls, words: Sequence[str]) -> "ScaleRequest":
        """A request from words such as actors=4. ConfigError for any other word."""
        values: dict[str, int] = {}
        for word in words:
            name, _, number = word.partition("=")
            if name not in cls.model_fields or not number.isdecimal() or not 1 <= int(number) <= MAX_PROCESSES:
                raise ConfigError(
                    f"{word!r} is not a number of processes. Give actors=N or rewards=N, N from 1 to {MAX_PROCESSES:,}."
                )
            values[name] = int(number)
        if not values:
            raise ConfigError("no number of processes is given. Example: tributary scale actors=4 --run DIR")
        return cls(**values)


class ScaleFile:
    """The run's side: it reads requests and writes the number of running processes."""

    def __init__(self, folder: Path) -> None:
        """Delete the requests to an earlier run in this folder."""
        self._folder = folder
        self._read_at = 0
        self._written: Mapping[str, int] = {}
        for name in (_REQUEST, _MEMBERS):
            (folder / name).unlink(missing_ok=True)

    def new_request(self) -> dict[str, int]:
        """The numbers requested since the last call; empty if there is no new request, or it is invalid."""
        path = self._folder / _REQUEST
        try:
            changed = path.stat().st_mtime_ns
            if changed == self._read_at:
                return {}
            self._read_at = changed
            return ScaleRequest.model_validate_json(path.read_bytes()).model_dump(exclude_none=True)
        except (FileNotFoundError, ValidationError):
            return {}

    def write(self, ready: Mapping[str, int]) -> None:
        """Write the number of ready processes per role."""
        if ready != self._written:
            self._written = dict(ready)
            write_json(self._folder / _MEMBERS, ready)


def request_scale(folder: RunFolder, request: ScaleRequest, limit_s: float, show: Callable[[str], None]) -> None:
    """Send a request to the run in `folder` and wait until the processes are ready; `show` gets each progress line.

    Raises ConfigError if no run trains there, and WaitTimeout after `limit_s`; the run continues to try.
    """
    if not folder.is_locked():
        raise ConfigError(
            f"no run trains in {folder.path}, so there is nothing to scale. Start it, or give another folder."
        )
    write_json(folder.path / _REQUEST, request.model_dump(exclude_none=True))
    requested = {"actor": request.actors, "reward": request.rewards}
    deadline, shown = time.monotonic() + limit_s, ""
    while True:
        ready = _members(folder.path)
        progress = ", ".join(
            f"{ready.get(role, 0)}/{number} {role}s ready" for role, number in requested.items() if number
        )
        if progress != shown:
            show(progress)
            shown = progress
        if all(number is None or ready.get(role) == number for role, number in requested.items()):
            return
        if time.monotonic() > deadline:
            raise WaitTimeout(
                f"{progress} after {limit_s:.0f} s. The run continues to try; its live view shows what it waits for, "
                "such as CPUs or GPUs that are in use."
            )
        time.sleep(POLL_S)


def _members(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / _MEMBERS).read_text()))
    except FileNotFoundError:
        return {}
