"""What the processes of a run tell each other: the newest adapter, who scores, how often each was started.

The board is a small Ray actor. It puts an adapter's bytes into the object store once; every node that needs them
fetches them from there. It owns them too, so an actor that starts after the learner has died still finds the newest.
Who wants the next adapter leaves a call waiting here and is answered the moment it hangs: nobody asks again and
again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import ray

from buffer.types import AdapterFiles, AdapterVersion

Newest: TypeAlias = tuple[int, tuple[AdapterVersion, AdapterFiles] | None]
"""See actors.rollout.AdapterSource."""

LONGEST_CALL_S = 30.0
"""A call that waits for a newer adapter comes back empty after this, s."""


class AdapterStore:
    """Holds one version: the newest."""

    def __init__(self) -> None:
        self._version: AdapterVersion | None = None
        self._files: Any = None
        self._changed = asyncio.Event()
        self._reward_workers: list[str] = []
        self._starts: Counter[str] = Counter()

    async def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Replace what hangs here. Versions only go up: ValueError otherwise."""
        if self._version is not None and version.number <= self._version.number:
            raise ValueError(
                f"adapter version {version.number} is not newer than {self._version.number}, which is published already"
            )
        self._version, self._files = version, ray.put(files)
        self._changed.set()
        self._changed = asyncio.Event()

    async def newest(self) -> tuple[AdapterVersion, list[Any]] | None:
        """The version and a list with its files' reference; None before the first."""
        return None if self._version is None else (self._version, [self._files])

    async def newer(self, known: int) -> tuple[AdapterVersion, list[Any]] | None:
        """As `newest`, once there is a version above `known`, or after LONGEST_CALL_S."""
        if self._version is None or self._version.number <= known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LONGEST_CALL_S)
        return await self.newest()

    async def set_reward_workers(self, names: Sequence[str]) -> None:
        """Names of the reward workers that take trajectories from now on."""
        self._reward_workers = list(names)

    async def reward_workers(self) -> list[str]:
        """What was set last."""
        return self._reward_workers

    async def started(self, process: str) -> int:
        """Count a start of `process`; how many there were before."""
        self._starts[process] += 1
        return self._starts[process] - 1


class AdapterStoreClient:
    """An actor's, the learner's or the driver's side of the board."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._call: Any = None
        self._newest: tuple[AdapterVersion, list[Any]] | None = None

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Returns once the board has it."""
        ray.get(self._board.publish.remote(version, files))

    def latest(self, known: int) -> Newest:
        """See actors.rollout.AdapterSource. The first call asks; later ones look whether the board has answered."""
        if self._call is None:
            self.sync()
        elif ray.wait([self._call], timeout=0)[0]:
            self._newest = ray.get(self._call)
            self._ask()
        if self._newest is None:
            return -1, None
        version, [files] = self._newest
        return version.number, (version, ray.get(files)) if version.number > known else None

    def sync(self) -> None:
        """Know what hangs there now; blocks for a round trip."""
        self._newest = ray.get(self._board.newest.remote())
        self._ask()

    def _ask(self) -> None:
        known = -1 if self._newest is None else self._newest[0].number
        self._call = self._board.newer.remote(known)

    def reward_workers(self) -> list[str]:
        """Names; blocks for a round trip."""
        return list(ray.get(self._board.reward_workers.remote()))

    def set_reward_workers(self, names: Sequence[str]) -> None:
        """Returns once the board has them."""
        ray.get(self._board.set_reward_workers.remote(names))

    def started(self, process: str) -> int:
        """How often `process` was started before now; blocks for a round trip."""
        return int(ray.get(self._board.started.remote(process)))
