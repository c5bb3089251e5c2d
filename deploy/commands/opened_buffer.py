"""The buffer that a command of `tributary buffer` works on, with the connection to its server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis
from rich.markup import escape

from buffer.archive import decode_scored
from buffer.config import BufferAdvanced, BufferConfig
from buffer.errors import ConfigError, RecordError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect, store_errors
from buffer.server.redis_server import RedisServer, repair_folder, url_of_running
from buffer.store.check import findings, snapshot
from buffer.store.keys import Keys
from buffer.store.repair import repair
from buffer.store.settings import StoreSettings
from deploy.formatting import console


class Opened(NamedTuple):
    """A buffer and the client to its server."""

    client: redis.Redis
    buffer: ReplayBuffer


@contextmanager
def opened_buffer(
    run: Path | None, url: str | None, name: str | None, reads: bool = False, fix: bool = False
) -> Iterator[Opened]:
    """The buffer of a run, or the buffer `name` on the server `url`.

    A run that trains has a server already, which only commands that `reads` may use; otherwise one is started that
    runs as long as the command.
    """
    if run is not None and url is None and name is None:
        with _opened_run(run, reads, fix) as opened:
            yield opened
    elif run is None and url is not None and name is not None:
        with connect(url, evicting_ok=True) as client:
            yield Opened(client, ReplayBuffer(client, _stored_config(client, name), name))
    else:
        raise ConfigError("the buffer is not specified. Give --run DIR, or --redis URL and --name NAME.")


@contextmanager
def _opened_run(run: Path, reads: bool, fix: bool) -> Iterator[Opened]:
    from deploy.artifacts.run_folder import RunFolder
    from deploy.config import parse_config

    folder = RunFolder.open(run)
    config = parse_config(folder.read_config(), source=f"{run}/config.toml").buffer
    if config.url:
        if ":***@" in config.url:
            raise ConfigError(
                f"{run}/config.toml does not contain the password of {config.url}. Give the address instead: "
                f"--redis URL --name {folder.name}"
            )
        with connect(config.url, evicting_ok=True) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))
        return
    if reads and folder.is_locked():  # the run trains: its own server is up
        with _connected(url_of_running(folder.buffer), run) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))
        return
    with folder.lock():
        if fix:
            _fix_file(folder.buffer)
        with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
            yield Opened(client, ReplayBuffer(client, config, folder.name))


def _connected(url: str, run: Path) -> redis.Redis:
    """A client of the server of a run that trains."""
    try:
        return connect(url, evicting_ok=True)
    except StoreError as error:
        raise StoreError(
            f"a process trains in {run}, and the run's own Redis server listens on the loopback of that machine only: "
            f"run this command there, or try again if the run is just starting ({error})"
        ) from error


def _fix_file(folder: Path) -> None:
    result = repair_folder(folder)
    if result.backup:
        console.print(
            f"removed the last {result.cut_bytes:,} bytes of {escape(str(result.file))}, which were not a complete "
            f"command; {result.kept_bytes:,} bytes remain, and the damaged file is kept as {escape(result.backup.name)}"
        )


@store_errors("reading the buffer's settings")
def _stored_config(client: redis.Redis, name: str) -> BufferConfig:
    """The settings stored with a buffer."""
    settings_json: Any = client.hget(Keys(name).counters, "settings")
    if settings_json is None:
        raise ConfigError(
            f"there is no buffer called {name!r} on this server. The file `name` in a run's folder has the right name."
        )
    try:
        stored = StoreSettings.model_validate_json(settings_json)
    except ValueError as error:
        raise StoreError(
            f"the settings of buffer {name!r} can't be read: another release of Tributary wrote them. Use that one."
        ) from error
    advanced = BufferAdvanced(
        sampler="highest_reward" if stored.rank_by_reward else "prioritized",
        evict=stored.evict,
        per_prompt_quota=stored.per_prompt_quota,
        max_times_sampled=stored.max_times_sampled,
        max_staleness=stored.max_staleness,
    )
    return BufferConfig(capacity=stored.capacity, min_size_to_sample=1, advanced=advanced)


def problems_of(opened: Opened) -> list[str]:
    """What is inconsistent between the indexes and the records, as sentences."""
    with store_errors("checking the buffer"):
        return findings(snapshot(opened.client, opened.buffer.store.keys))


def repair_indexes(opened: Opened) -> None:
    """Rebuild the indexes from the records, and add again those without an item."""
    store = opened.buffer.store
    with store_errors("repairing the buffer"):
        before = snapshot(opened.client, store.keys)
        orphans = repair(opened.client, store.keys, before, store.settings.ranked_by)
    readable = []
    for record in orphans:
        try:
            readable.append(decode_scored(record))
        except RecordError:
            continue
    added = opened.buffer.add(readable).added if readable else 0
    console.print(f"repaired; of {len(orphans):,} records without an item {added:,} were added again")
