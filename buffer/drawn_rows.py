"""The rows of a draw: records become trajectories, and those that can't be used go to quarantine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from buffer.codec import decode
from buffer.errors import RecordError, StoreError
from buffer.quarantine import Quarantine, Quarantined
from buffer.server.connect import store_errors
from buffer.store.binary_layout import NONE
from buffer.store.item_store import Handle, ItemStore, Rows
from buffer.stored_policy import StoredPolicy
from buffer.types import Trajectory

NO_VERSION = NONE
"""Version of a given string in the store: it is never too stale."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row of a batch."""

    id: Handle
    trajectory: Trajectory
    fresh: bool
    """Drawn because it had just arrived, once per arrival."""
    policy_version: int
    """Version of this arrival; `trajectory` has that of the string's newest arrival."""
    behaviour: str
    """Behaviour of this arrival."""
    content_id: str = ""


class DrawnRows:
    """Reads the rows of one store."""

    def __init__(self, store: ItemStore, quarantine: Quarantine) -> None:
        self._store = store
        self._quarantine = quarantine

    @cached_property
    def policy(self) -> StoredPolicy | None:
        """What `note_policy` stored; None for a buffer that no run has used. Read once."""
        with store_errors("reading the policy"):
            stored: Any = self._store.client.hget(self._store.keys.counters, "policy")
        try:
            return None if stored is None else StoredPolicy.model_validate_json(stored)
        except ValueError as error:
            raise StoreError(
                "the policy stored with the buffer can't be read: another release of Tributary wrote it. Use that one."
            ) from error

    def readable(self, drawn: Rows) -> list[Drawn]:
        """The rows whose records are present and readable; the unreadable ones go to quarantine."""
        rows, decoded, unreadable = list[Drawn](), dict[bytes, Trajectory](), dict[bytes, tuple[Handle, Quarantined]]()
        for i, (entry, record) in enumerate(zip(drawn.entries.tolist(), drawn.records, strict=True)):
            slot, generation, version, _, digest = entry
            handle = Handle(slot, generation)
            if record is None or digest in unreadable:
                continue  # it left since it was drawn, or another row holds the same record
            if digest not in decoded:
                try:
                    decoded[digest] = self._decoded(record)
                except RecordError as error:
                    unreadable[digest] = (handle, Quarantined.from_record(digest.hex(), str(error), record))
                    continue
            trajectory = decoded[digest]
            fresh = i < drawn.fresh
            arrival_version = int(drawn.versions[i]) if fresh else version
            rows.append(
                Drawn(
                    id=handle,
                    trajectory=trajectory,
                    fresh=fresh,
                    policy_version=trajectory.policy_version if arrival_version == NO_VERSION else arrival_version,
                    behaviour=drawn.tags[i] if fresh else trajectory.behaviour,
                    content_id=digest.hex(),
                )
            )
        if unreadable:
            handles, entries = zip(*unreadable.values(), strict=True)
            self._quarantine.move(handles, entries)
        return rows

    def _decoded(self, record: bytes) -> Trajectory:
        """The trajectory of a record. RecordError for a malformed one, or one that the policy cannot have written."""
        trajectory = decode(record)
        if self.policy and (problem := self.policy.problem(trajectory)):
            raise RecordError(problem)
        return trajectory
