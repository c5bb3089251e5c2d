"""A buffer's trajectories in one file, to keep, to move, or to begin another run with.

offset  type     content
0       8 bytes  b"TRIBARCH"
8       u16      format version
10               then for each trajectory, the one that arrived longest ago first:
        u32      bytes of its record
        u16      level of its draw weight (levels.py)
                 its record, as codec.py writes it
        u32      crc32 of the whole file up to here
end     u32 u16  0 and 0, then the crc32 once more

All is little-endian. The checksums run on from one to the next, so that nothing can be changed, cut off, moved or left
out unnoticed. Whoever can write the file can write here: nothing is read before its length is checked.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import redis

from buffer.codec import MAX_RECORD_BYTES, decode
from buffer.errors import ConfigError, RecordError, StoreError
from buffer.replay import HIGHEST_VERSION, AddResult, ReplayBuffer
from buffer.server.connect import store_errors
from buffer.store.binary_layout import LEVEL_COUNT, PLACES_END
from buffer.store.check import Snapshot, snapshot
from buffer.store.item_store import MAX_TAGS
from buffer.store.priority_levels import MIDDLE, STEPS_PER_OCTAVE
from buffer.types import Trajectory

FORMAT_VERSION = 1
CHUNK = 256
"""Trajectories in memory at once."""

_MAGIC = b"TRIBARCH"
_START = struct.Struct("<8sH")
_HEAD = struct.Struct("<IH")
_CRC = struct.Struct("<I")
_MOST_OCTAVES = 1022.0
"""Up or down from 1 that a double reaches without losing digits."""


class Exported(NamedTuple):
    """What became of the trajectories of one export. Those that left the buffer meanwhile are in neither number."""

    written: int
    unreadable: int
    """Left out: a draw would have put them into quarantine."""


class Entry(NamedTuple):
    """One trajectory of an archive."""

    trajectory: Trajectory
    level: int


@store_errors("exporting the buffer")
def export_archive(client: redis.Redis, buffer: ReplayBuffer, path: Path) -> Exported:
    """Write all that is in the buffer to `path`, which is whole or as it was before; the buffer may be in use.

    Raise ConfigError when the file can't be written, StoreError when the buffer was cleared meanwhile.
    """
    found = snapshot(client, buffer.store.keys)
    partial = path.with_name(path.name + ".partial")
    with _file_errors(path, "written"):
        try:
            with partial.open("wb") as file:
                counts = _write(file, found, buffer)
                file.flush()
                os.fsync(file.fileno())
            if client.hget(buffer.store.keys.counters, "epoch") != found.counters.get("epoch"):
                raise StoreError("the buffer was cleared while it was exported: nothing was written. Export it anew.")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return counts


@store_errors("importing into the buffer")
def import_archive(buffer: ReplayBuffer, path: Path) -> AddResult:
    """Add what is in the file under the buffer's own rules, each at its old draw weight; what is there keeps its own.

    All of the file is checked before anything is added. Raise RecordError for one that is no archive, or a damaged one,
    ConfigError when it can't be read. An import that fails later than that, in Redis, can be made again: what has come
    in by then is a duplicate. With samples_per_insert it waits as any add does.
    """
    exponent = buffer._config.priority_exponent
    added = duplicates = evicted = 0
    refused = dict[str, int]()
    with _file_errors(path, "read"), path.open("rb") as file:
        _check(file, path)
        file.seek(0)
        entries = read_entries(file, path)
        while chunk := list(islice(entries, CHUNK)):
            result = buffer.add(
                [entry.trajectory for entry in chunk], [priority_of(entry.level, exponent) for entry in chunk]
            )
            added, duplicates, evicted = added + result.added, duplicates + result.duplicates, evicted + result.evicted
            refused = {name: refused.get(name, 0) + result.refused.get(name, 0) for name in refused | result.refused}
    return AddResult(added, duplicates, evicted, refused)


def read_entries(file: BinaryIO, path: Path) -> Iterator[Entry]:
    """What the archive holds, oldest first. Raise RecordError with the offset where something is wrong."""
    reader = _Reader(file, path)
    magic, version = _START.unpack(reader.take(_START.size, "the header"))
    if magic != _MAGIC:
        raise reader.error(f"it starts with {magic!r}, not {_MAGIC!r}: no archive of a buffer")
    if version != FORMAT_VERSION:
        raise reader.error(f"format version {version}, this code reads {FORMAT_VERSION}: use the release that wrote it")
    while True:
        length, level = _HEAD.unpack(reader.take(_HEAD.size, "the head of a record"))
        if length > MAX_RECORD_BYTES:
            raise reader.error(f"a record of {length} bytes, at most {MAX_RECORD_BYTES} are allowed")
        record = reader.take(length, "a record")
        crc = reader.crc
        (said,) = _CRC.unpack(reader.take(_CRC.size, "a checksum"))
        if said != crc:
            raise reader.error(f"crc32 is {crc:08x}, the file says {said:08x}: damaged")
        if length == level == 0:
            break
        if not 1 <= level < LEVEL_COUNT:
            raise reader.error(f"level {level} must be within 1 ... {LEVEL_COUNT - 1}")
        try:
            yield Entry(decode_scored(record), level)
        except RecordError as error:
            raise reader.error(str(error)) from error
    if file.read(1):
        raise reader.error("bytes follow the end")


def decode_scored(record: bytes) -> Trajectory:
    """The trajectory of a record that `ReplayBuffer.add` will take. Raise RecordError for any other."""
    trajectory = decode(record)
    if not trajectory.is_scored:
        raise RecordError("an unscored trajectory, a buffer holds scored ones")
    if trajectory.adapter_digest and trajectory.policy_version > HIGHEST_VERSION:
        raise RecordError(f"policy_version = {trajectory.policy_version}, at most {HIGHEST_VERSION} fits in a buffer")
    return trajectory


def priority_of(level: int, exponent: float) -> float:
    """A priority that `level_of` gives this level; with an exponent near 0 the nearest level that one can have."""
    if exponent == 0.0:
        return 1.0
    octaves = (level - MIDDLE) / STEPS_PER_OCTAVE / exponent
    return float(2.0 ** min(max(octaves, -_MOST_OCTAVES), _MOST_OCTAVES))


def _write(file: BinaryIO, found: Snapshot, buffer: ReplayBuffer) -> Exported:
    crc, written, unreadable = 0, 0, 0

    def write(part: bytes) -> None:
        nonlocal crc
        file.write(part)
        crc = zlib.crc32(part, crc)

    write(_START.pack(_MAGIC, FORMAT_VERSION))
    items = _oldest_first(found)
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        records = buffer.store.records(chunk["digest"].tolist())
        for record, level in zip(records, chunk["level"].tolist(), strict=True):
            if record is None:
                continue  # it left since the snapshot
            try:
                decode_scored(record)
            except RecordError:
                unreadable += 1  # one such would make the whole file unreadable
                continue
            write(_HEAD.pack(len(record), level) + record)
            write(_CRC.pack(crc))
            written += 1
    write(_HEAD.pack(0, 0))
    write(_CRC.pack(crc))
    return Exported(written, unreadable)


def _oldest_first(found: Snapshot) -> Any:
    """[size] of ITEM, by number of the last arrival."""
    items = found.items[found.live]
    arrivals = int(found.counters.get("arrivals", 0))
    return items[np.argsort((items["arrival"].astype(np.int64) - arrivals - 1) % PLACES_END, kind="stable")]


def _check(file: BinaryIO, path: Path) -> None:
    """Read it all. Behaviours are counted too: the buffer keeps a list of all it has met."""
    behaviours = set[str]()
    for entry in read_entries(file, path):
        behaviours.add(entry.trajectory.behaviour)
        if len(behaviours) > MAX_TAGS:
            raise RecordError(
                f"{path} names more than {MAX_TAGS} behaviours, no run has so many: nothing was imported. Take an "
                "archive that `tributary buffer export` wrote."
            )


class _Reader:
    """Reads on; knows where it is and the checksum of what it has read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._part = self._offset = 0
        self.crc = 0

    def take(self, number: int, what: str) -> bytes:
        """The next `number` bytes; RecordError where the file ends before."""
        self._part = self._offset
        data = self._file.read(number)
        if len(data) < number:
            raise self.error(f"the file ends after {len(data)} of the {number} bytes of {what}")
        self._offset += number
        self.crc = zlib.crc32(data, self.crc)
        return data

    def error(self, reason: str) -> RecordError:
        """What is wrong with the part taken last."""
        return RecordError(
            f"{self._path} can't be imported; at byte {self._part}: {reason}. Take an undamaged copy, or export anew."
        )


@contextmanager
def _file_errors(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} can't be {done} ({error.strerror or error}); choose another file") from error
