"""Shared state of the processes of a run: the newest adapter, the names of the reward workers, starts, heartbeats
and last errors.

AdapterStore is a small Ray actor. It puts an adapter's bytes into the object store once, and every node that needs them
fetches them from there. It owns the bytes, so an actor that starts after the learner has died still gets the newest
adapter. Actors long-poll: `newer` blocks until a newer adapter is published.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import ray

from buffer.types import AdapterFiles, AdapterVersion
from deploy.cluster.crash_loop import Deaths, Lives
from deploy.cluster.ray_calls import Call, Handle

StoredAdapter: TypeAlias = tuple[AdapterVersion, list[Any]]
"""A version and a list with the ray.ObjectRef of its AdapterFiles: inside a list Ray passes the reference itself."""

MAX_POLL_S = 30.0
"""`newer` returns the known version after this time, s."""
LAST_WORDS_LIMIT_S = 5.0
"""Longest wait for the store when a process has died, s."""


class Health(NamedTuple):
    """What the store knows of the processes."""

    without_beat: dict[str, float]
    """Process -> seconds since its last heartbeat, of those that have sent one since their start."""
    starts: dict[str, int]
    """Process -> number of its starts."""
    has_forgotten: bool
    """The store has lost its state since the last call."""


class AdapterStore:
    """Holds one version: the newest."""

    def __init__(self) -> None:
        self._stored: StoredAdapter | None = None
        self._changed = asyncio.Event()
        self._reward_workers: list[str] = []
        self._lives: defaultdict[str, Lives] = defaultdict(Lives)
        self._last_words: dict[str, str] = {}
        self._beats: dict[str, float] = {}
        self._is_reminded = not ray.get_runtime_context().was_current_actor_reconstructed

    async def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Replace the stored version. ValueError unless the new number is larger."""
        if self._stored is not None and version.number <= self._stored[0].number:
            raise ValueError(
                f"adapter version {version.number} is not newer than version {self._stored[0].number}, which is "
                "already published"
            )
        self._stored = version, [ray.put(files)]
        self._changed.set()
        self._changed = asyncio.Event()

    async def newest(self) -> StoredAdapter | None:
        """The stored version; None before the first."""
        return self._stored

    async def newer(self, held: int) -> StoredAdapter | None:
        """As `newest`, but blocks until there is a version above `held`, MAX_POLL_S at most."""
        if self._stored is None or self._stored[0].number <= held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), MAX_POLL_S)
        return self._stored

    async def set_reward_workers(self, names: Sequence[str]) -> None:
        """Replace the names of the reward workers that take trajectories."""
        self._reward_workers = list(names)

    async def reward_workers(self) -> list[str]:
        """Names of the reward workers that take trajectories."""
        return self._reward_workers

    async def count_start(self, process: str) -> Deaths:
        """Count a start of `process`; returns its deaths before."""
        self._beats.pop(process, None)
        return self._lives[process].start(time.monotonic())

    async def note_ready(self, process: str) -> None:
        """Note that `process` has loaded."""
        self._lives[process].was_ready = True
        self._last_words.pop(process, None)  # of its earlier life

    async def beat(self, process: str) -> None:
        """Note that `process` is alive."""
        self._beats[process] = time.monotonic()

    async def health(self) -> Health:
        """Heartbeats and starts, and once after a restart that the store has forgotten what it knew."""
        forgotten, self._is_reminded = not self._is_reminded, True
        without_beat = {process: time.monotonic() - at for process, at in self._beats.items()}
        return Health(without_beat, {name: lives.starts for name, lives in self._lives.items()}, forgotten)

    async def forget_beats(self, process: str) -> None:
        """`process` was ended: it is silent until it is back."""
        self._beats.pop(process, None)

    async def keep_last_words(self, process: str, words: str) -> None:
        """Keep the error with which `process` is about to end."""
        self._last_words[process] = words

    async def last_words(self, process: str) -> str:
        """The error with which `process` ended, once; empty without one."""
        return self._last_words.pop(process, "")


class AdapterStoreClient:
    """Access to the AdapterStore from an actor, the learner or the driver."""

    def __init__(self, store: Handle) -> None:
        self._store = store
        self._poll: Call | None = None
        self._health: Call | None = None
        self._newest: StoredAdapter | None = None

    def publish(self, version: AdapterVersion, files: AdapterFiles) -> None:
        """Returns once the version is stored."""
        ray.get(self._store.publish.remote(version, files))

    def latest(self, held: int) -> tuple[AdapterVersion, AdapterFiles] | None:
        """An actors.rollout.AdapterSource. The first call blocks for a round trip, later ones check the long poll."""
        if self._poll is None:
            self.sync()
        elif ray.wait([self._poll], timeout=0)[0]:
            self._newest = ray.get(self._poll)
            self._start_poll()
        if self._newest is None or self._newest[0].number <= held:
            return None
        version, [files] = self._newest
        try:
            return version, ray.get(files)
        except ray.exceptions.ObjectLostError:  # gone with the store, which gets the newest version again
            self._poll = self._newest = None
            return None

    def newest(self) -> tuple[AdapterVersion, AdapterFiles] | None:
        """The stored version; None before the first. Blocks for a round trip."""
        self.sync()
        return self.latest(-1)

    def sync(self) -> None:
        """Fetch the newest version now; blocks for a round trip."""
        self._newest = ray.get(self._store.newest.remote())
        self._start_poll()

    def _start_poll(self) -> None:
        held = -1 if self._newest is None else self._newest[0].number
        self._poll = self._store.newer.remote(held)

    def reward_workers(self) -> list[str]:
        """Names of the reward workers that take trajectories; blocks for a round trip."""
        return list(ray.get(self._store.reward_workers.remote()))

    def set_reward_workers(self, names: Sequence[str]) -> None:
        """Returns once the names are stored."""
        ray.get(self._store.set_reward_workers.remote(names))

    def count_start(self, process: str) -> Deaths:
        """AdapterStore.count_start; blocks for a round trip."""
        deaths: Deaths = ray.get(self._store.count_start.remote(process))
        return deaths

    def note_ready(self, process: str) -> None:
        """AdapterStore.note_ready; blocks for a round trip."""
        ray.get(self._store.note_ready.remote(process))

    def beat(self, process: str, wait: bool = True) -> None:
        """Note that `process` is alive; with `wait` returns once the store knows it."""
        call = self._store.beat.remote(process)
        if wait:
            ray.get(call)

    def health(self) -> Health | None:
        """AdapterStore.health; None where the answer has not come yet. Never blocks."""
        call = self._health or self._store.health.remote()
        self._health = call
        if not ray.wait([call], timeout=0)[0]:
            return None
        self._health = None
        health: Health = ray.get(call)
        return health

    def forget_beats(self, process: str) -> None:
        """AdapterStore.forget_beats"""
        self._store.forget_beats.remote(process)

    def keep_last_words(self, process: str, words: str) -> None:
        """Keep the error with which `process` is about to end; returns once it is stored."""
        ray.get(self._store.keep_last_words.remote(process, words), timeout=LAST_WORDS_LIMIT_S)

    def last_words(self, process: str) -> str:
        """The error with which `process` ended, once; empty without one, or where the store does not answer."""
        try:
            return str(ray.get(self._store.last_words.remote(process), timeout=LAST_WORDS_LIMIT_S))
        except ray.exceptions.RayError:
            return ""
