"""Where the newest adapter hangs: the learner puts it up, actors take it down.

The board is a small Ray actor. It puts the bytes into the object store once; every node that needs them fetches them
from there. It owns them too, so an actor that starts after the learner has died still finds the newest.
"""

from typing import Any

import ray

from buffer.types import AdapterFiles, AdapterVersion


class AdapterBoard:
    """Holds one version: the newest."""

    def __init__(self) -> None:
        self._version: AdapterVersion | None = None
        self._files: Any = None

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Replace what hangs here. Versions only go up: ValueError otherwise."""
        if self._version is not None and version.number <= self._version.number:
            raise ValueError(
                f"adapter version {version.number} is not newer than {self._version.number}, which is published already"
            )
        self._version, self._files = version, ray.put(files)

    def latest(self, known: int) -> tuple[int, tuple[AdapterVersion, list[Any]] | None]:
        """(newest number or -1, and if it is newer than `known`: the version and a list with its files' reference)."""
        if self._version is None:
            return -1, None
        newer = (self._version, [self._files]) if self._version.number > known else None
        return self._version.number, newer


class BoardClient:
    """An actor's or the learner's side of the board; blocks for a round trip."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Returns once the board has it."""
        ray.get(self._board.publish.remote(version, files))

    def latest(self, known: int) -> tuple[int, tuple[AdapterVersion, AdapterFiles] | None]:
        """See actors.rollout.AdapterSource."""
        number, newer = ray.get(self._board.latest.remote(known))
        return number, newer and (newer[0], ray.get(newer[1][0]))
