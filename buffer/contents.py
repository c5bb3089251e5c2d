"""Everything that a buffer holds at one time."""

from collections.abc import Iterator

from buffer.codec import decode
from buffer.errors import RecordError
from buffer.replay import ReplayBuffer
from buffer.store.check import snapshot
from buffer.types import Trajectory

CHUNK = 256
"""Trajectories in memory at once."""


def contents(buffer: ReplayBuffer) -> Iterator[Trajectory]:
    """All trajectories that can be read, in no order; the buffer may be in use."""
    store_snapshot = snapshot(buffer.store.client, buffer.store.keys)
    digests = store_snapshot.items[store_snapshot.live]["digest"].tolist()
    for start in range(0, len(digests), CHUNK):
        for record in buffer.store.records(digests[start : start + CHUNK]):
            if record is None:
                continue  # it left since the snapshot
            try:
                yield decode(record)
            except RecordError:
                continue  # a draw moves it to quarantine
