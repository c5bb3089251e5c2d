"""A buffer's trajectories in one file: to keep, to move, or to start another run with.

offset  type     content
0       8 bytes  b"TRIBARCH"
8       u16 u32  format version, and bytes of what follows
14               StoredPolicy of the buffer as JSON; nothing where it has none
                 then for each trajectory, in order of last arrival, oldest first:
        u32      bytes of its record
        u16      level of its draw weight (store/priority_levels.py)
                 its record, in the format of codec.py
        u32      crc32 of the whole file up to here
end     u32 u16  0 and 0, then the crc32 again

Everything is little-endian. Each checksum covers all bytes before it, so any changed, truncated, moved or missing part
is detected. The file is untrusted input: every length is checked before the bytes are read.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from buffer.stored_policy import StoredPolicy
from buffer.types import Trajectory

FORMAT_VERSION = 2
MAX_POLICY_BYTES = 4 * 1024**2
CHUNK = 256
"""Trajectories in memory at once."""

_MAGIC = b"TRIBARCH"
_START = struct.Struct("<8sHI")
_HEAD = struct.Struct("<IH")
_CRC = struct.Struct("<I")
_MAX_OCTAVES = 1022.0
"""Octaves above and below 1 that a double reaches without losing digits."""


class Exported(NamedTuple):
    """Counts of one export. Trajectories that left the buffer meanwhile are in neither number."""

    written: int
    unreadable: int
    """Omitted: a draw would have moved them to quarantine."""


class Entry(NamedTuple):
    """One trajectory of an archive."""

    trajectory: Trajectory
    level: int


@store_errors("exporting the buffer")
def export_archive(client: redis.Redis, buffer: ReplayBuffer, path: Path) -> Exported:
    """Write all trajectories to `path`, which is replaced only when complete; the buffer may be in use.

    Raise ConfigError when the file can't be written, StoreError when the buffer was cleared meanwhile.
    """
    store_snapshot = snapshot(client, buffer.store.keys)
    partial = path.with_name(path.name + ".partial")
    with _file_errors(path, "written"):
        try:
            with partial.open("wb") as file:
                counts = _write(file, store_snapshot, buffer)
                file.flush()
                os.fsync(file.fileno())
            if client.hget(buffer.store.keys.counters, "epoch") != store_snapshot.counters.get("epoch"):
                raise StoreError("the buffer was cleared during the export: nothing was written. Export it again.")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return counts


@store_errors("importing into the buffer")
def import_archive(buffer: ReplayBuffer, path: Path) -> AddResult:
    """Add the trajectories of a file under the buffer's own rules, each at its old draw weight.

    A trajectory that is in the buffer already keeps its weight. The whole file is checked before anything is added:
    raise RecordError for a damaged file or one that is not an archive, ConfigError for one that can't be read, or whose
    policy, reward or terms are not the buffer's. An import that fails later, in Redis, can be repeated: what was added
    by then is a duplicate. With samples_per_insert it blocks like any `add`. Versions of another run that this one has
    not published yet count as its newest one.
    """
    exponent, newest = buffer._config.priority_exponent, buffer.newest_version()
    added = duplicates = evicted = 0
    refused = dict[str, int]()
    with _file_errors(path, "read"), path.open("rb") as file:
        _check(file, path, buffer)
        file.seek(0)
        entries = read_entries(file, path)
        while chunk := list(islice(entries, CHUNK)):
            strings = [_at_most(entry.trajectory, newest) for entry in chunk]
            result = buffer.add(strings, [priority_of(entry.level, exponent) for entry in chunk])
            added, duplicates, evicted = added + result.added, duplicates + result.duplicates, evicted + result.evicted
            refused = {name: refused.get(name, 0) + result.refused.get(name, 0) for name in refused | result.refused}
    return AddResult(added, duplicates, evicted, refused)


def _at_most(trajectory: Trajectory, newest: int) -> Trajectory:
    """The trajectory, with a version that is at most `newest` where that is known."""
    if not trajectory.adapter_digest or not trajectory.policy_version > newest >= 0:
        return trajectory
    return replace(trajectory, policy_version=newest)


def read_entries(file: BinaryIO, path: Path) -> Iterator[Entry]:
    """The entries of an archive, oldest first. Raise RecordError with the offset of a malformed part."""
    return _entries(_read_start(file, path)[0])


def _read_start(file: BinaryIO, path: Path) -> tuple["_Reader", StoredPolicy | None]:
    """A reader behind the header, and the policy in it."""
    reader = _Reader(file, path)
    magic, version, length = _START.unpack(reader.take(_START.size, "the header"))
    if magic != _MAGIC:
        raise reader.error(f"it starts with {magic!r}, not {_MAGIC!r}: not an archive of a buffer")
    if version != FORMAT_VERSION:
        raise reader.error(f"format version {version}, this code reads {FORMAT_VERSION}: use the release that wrote it")
    if length > MAX_POLICY_BYTES:
        raise reader.error(f"a policy of {length} bytes, at most {MAX_POLICY_BYTES} are allowed")
    policy = reader.take(length, "the policy")
    try:
        return reader, StoredPolicy.model_validate_json(policy) if policy else None
    except ValueError as error:
        raise reader.error("its policy is not one that this code reads") from error


def _entries(reader: "_Reader") -> Iterator[Entry]:
    """The entries behind the header."""
    while True:
        length, level = _HEAD.unpack(reader.take(_HEAD.size, "the head of a record"))
        if length > MAX_RECORD_BYTES:
            raise reader.error(f"a record of {length} bytes, at most {MAX_RECORD_BYTES} are allowed")
        record = reader.take(length, "a record")
        crc = reader.crc
        (stored_crc,) = _CRC.unpack(reader.take(_CRC.size, "a checksum"))
        if stored_crc != crc:
            raise reader.error(f"crc32 is {crc:08x}, the file has {stored_crc:08x}: damaged")
        if length == level == 0:
            break
        if not 1 <= level < LEVEL_COUNT:
            raise reader.error(f"level {level} must be within 1 ... {LEVEL_COUNT - 1}")
        try:
            yield Entry(decode_scored(record), level)
        except RecordError as error:
            raise reader.error(str(error)) from error
    if not reader.is_at_end():
        raise reader.error("bytes follow the end")


def decode_scored(record: bytes) -> Trajectory:
    """The trajectory of a record, if `ReplayBuffer.add` accepts it; raise RecordError otherwise."""
    trajectory = decode(record)
    if not trajectory.is_scored:
        raise RecordError("the trajectory is unscored; a buffer holds scored ones")
    if trajectory.adapter_digest and trajectory.policy_version > HIGHEST_VERSION:
        raise RecordError(f"policy_version = {trajectory.policy_version}, at most {HIGHEST_VERSION} fits in a buffer")
    return trajectory


def priority_of(level: int, exponent: float) -> float:
    """A priority whose `level_of` is `level`; with an exponent near 0, the nearest level that a priority can have."""
    if exponent == 0.0:
        return 1.0
    octaves = (level - MIDDLE) / STEPS_PER_OCTAVE / exponent
    return float(2.0 ** min(max(octaves, -_MAX_OCTAVES), _MAX_OCTAVES))


def _write(file: BinaryIO, store_snapshot: Snapshot, buffer: ReplayBuffer) -> Exported:
    crc, written, unreadable = 0, 0, 0

    def write(part: bytes) -> None:
        nonlocal crc
        file.write(part)
        crc = zlib.crc32(part, crc)

    policy = buffer.policy.model_dump_json().encode() if buffer.policy else b""
    write(_START.pack(_MAGIC, FORMAT_VERSION, len(policy)) + policy)
    items = _oldest_first(store_snapshot)
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


def _oldest_first(store_snapshot: Snapshot) -> Any:
    """[size] of ITEM, in order of last arrival."""
    items = store_snapshot.items[store_snapshot.live]
    arrivals = int(store_snapshot.counters.get("arrivals", 0))
    return items[np.argsort((items["arrival"].astype(np.int64) - arrivals - 1) % PLACES_END, kind="stable")]


def _check(file: BinaryIO, path: Path, buffer: ReplayBuffer) -> None:
    """Read the whole file: its strings and rewards are the buffer's, and its behaviours not too many.

    The buffer keeps a list of all behaviours that have ever arrived.
    """
    reader, policy = _read_start(file, path)
    if policy and buffer.policy and (differences := policy.differences(buffer.policy)):
        raise ConfigError(
            f"{path} holds strings of another policy or reward than this buffer ({'; '.join(differences)}; here is the "
            "file): nothing was imported. Import it into a run of the same model, policy and task."
        )
    behaviours, terms = set[str](), _some_terms(buffer)
    for entry in _entries(reader):
        if buffer.policy and (problem := buffer.policy.problem(entry.trajectory)):
            raise reader.error(f"{problem}: this buffer's policy can't write it")
        if terms is not None and terms != set(entry.trajectory.reward_terms):
            raise ConfigError(
                f"{path} has rewards of the terms {', '.join(entry.trajectory.reward_terms)}, the buffer has "
                f"{', '.join(sorted(terms))}: nothing was imported. Import it into a run of the same task."
            )
        behaviours.add(entry.trajectory.behaviour)
        if len(behaviours) > MAX_TAGS:
            raise RecordError(
                f"{path} names more than {MAX_TAGS} behaviours, the maximum of a buffer: nothing was imported. Use an "
                "archive that `tributary buffer export` wrote."
            )


def _some_terms(buffer: ReplayBuffer) -> frozenset[str] | None:
    """Names of the reward terms of some trajectory of a buffer; None where it is empty or that one is damaged."""
    digest: Any = buffer.store.client.hrandfield(buffer.store.keys.payload)
    (record,) = buffer.store.records([digest]) if digest else [None]
    try:
        return None if record is None else frozenset(decode(record).reward_terms)
    except RecordError:
        return None


class _Reader:
    """Reads a file forwards, with the offset and the checksum so far."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._part = self._offset = 0
        self.crc = 0

    def take(self, number: int, what: str) -> bytes:
        """The next `number` bytes; raise RecordError if the file is shorter."""
        self._part = self._offset
        data = self._file.read(number)
        if len(data) < number:
            raise self.error(f"the file ends after {len(data)} of the {number} bytes of {what}")
        self._offset += number
        self.crc = zlib.crc32(data, self.crc)
        return data

    def is_at_end(self) -> bool:
        """True if no byte is left."""
        return not self._file.read(1)

    def error(self, reason: str) -> RecordError:
        """A RecordError about the part taken last."""
        return RecordError(
            f"{self._path} can't be imported; at byte {self._part}: {reason}. Use an undamaged copy, or export again."
        )


@contextmanager
def _file_errors(path: Path, participle: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} can't be {participle} ({error.strerror or error}); choose another file") from error
