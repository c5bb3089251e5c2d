"""Change how many actors and reward workers a run has, while it runs.

`tributary scale` writes what is wanted into the run's folder; the run reads it twice a second and says there what it
has. The folder is all that the two share, so this works wherever the folder can be seen.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from buffer.errors import ConfigError, WaitTimeout
from deploy.artifacts.json_files import write_json
from deploy.artifacts.run_folder import RunFolder

_WANTED, _MEMBERS = "wanted.json", "members.json"
POLL_S = 0.5
LARGEST = 10_000


class Wanted(BaseModel):
    """wanted.json: None leaves a number as it is."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    actors: int | None = Field(default=None, ge=1, le=LARGEST)
    rewards: int | None = Field(default=None, ge=1, le=LARGEST)

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Wanted":
        """From words such as actors=4. ConfigError for what is none."""
        values: dict[str, int] = {}
        for word in words:
            name, _, number = word.partition("=")
            if name not in cls.model_fields or not number.isdecimal() or not 1 <= int(number) <= LARGEST:
                raise ConfigError(
                    f"{word!r} says no number of processes. Give actors=N or rewards=N, N from 1 to {LARGEST:,}."
                )
            values[name] = int(number)
        if not values:
            raise ConfigError("say how many there are to be: tributary scale actors=4 --run DIR")
        return cls(**values)


class ScaleFile:
    """The run's side: what is wanted, and what there is."""

    def __init__(self, folder: Path) -> None:
        """What an earlier run in this folder was asked for is forgotten."""
        self._folder = folder
        self._read_at = 0
        self._written: Mapping[str, int] = {}
        for name in (_WANTED, _MEMBERS):
            (folder / name).unlink(missing_ok=True)

    def wanted(self) -> dict[str, int]:
        """What was asked for since the last call; empty where nothing was, or what was is no such file."""
        path = self._folder / _WANTED
        try:
            changed = path.stat().st_mtime_ns
            if changed == self._read_at:
                return {}
            self._read_at = changed
            return Wanted.model_validate_json(path.read_bytes()).model_dump(exclude_none=True)
        except (FileNotFoundError, ValidationError):
            return {}

    def write(self, ready: Mapping[str, int]) -> None:
        """Say how many processes of each role can work now."""
        if ready != self._written:
            self._written = dict(ready)
            write_json(self._folder / _MEMBERS, ready)


def scale(folder: RunFolder, wanted: Wanted, limit_s: float, say: Callable[[str], None]) -> None:
    """Ask the run in `folder` and wait until it has what is wanted.

    Raises ConfigError where no run trains there, WaitTimeout after `limit_s`: the run goes on trying.
    """
    if not folder.is_locked():
        raise ConfigError(
            f"no run trains in {folder.path}, so there is nothing to scale. Start one, or give a running one's folder."
        )
    write_json(folder.path / _WANTED, wanted.model_dump(exclude_none=True))
    want = {"actor": wanted.actors, "reward": wanted.rewards}
    deadline, said = time.monotonic() + limit_s, ""
    while True:
        have = _members(folder.path)
        sentence = ", ".join(
            f"{have.get(role, 0)} of {number} {role}s are there" for role, number in want.items() if number
        )
        if sentence != said:
            say(sentence)
            said = sentence
        if all(number is None or have.get(role) == number for role, number in want.items()):
            return
        if time.monotonic() > deadline:
            raise WaitTimeout(
                f"after {limit_s:.0f} s {sentence}. The run goes on trying; its live view says what it waits for, "
                "such as CPUs or GPUs that are not free."
            )
        time.sleep(POLL_S)


def _members(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / _MEMBERS).read_text()))
    except FileNotFoundError:
        return {}
