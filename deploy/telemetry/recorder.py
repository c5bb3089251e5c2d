"""A run's history for the dashboard, in `history.sqlite` in the run's folder.

consumes   learner rows with their notes, snapshots, judged samples
produces   history.sqlite: tables below, one writer, WAL, one transaction per snapshot
waits for  nothing; a failed write is reported (`trouble`), never raised into the run
unblocked by  nobody

table     row                                                                    thinned out beyond
meta      key -> JSON: about the run, newest snapshot in full, pid, end
learner   one per learner step: its figures, and those of its fresh rows          80 MiB
snapshots one a second: buffer totals, actors, reward workers, waits              40 MiB
samples   noted rows in full                                                      48 MiB
events    restarts, versions, alerts, ...                                          4 MiB
prompts   id, text
fields    id of a prompt, the data that the task has of it, such as the answer

`id` counts through all tables, so one number tells how far a reader has read. A table that exceeds its limit loses
every second row of its older half: the older, the coarser.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil

from deploy.telemetry.event_detector import Event, EventDetector
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.sinks import Sink
from deploy.telemetry.snapshot import Snapshot, as_row, buffer_totals
from rewards.task import Sample

FILE = "history.sqlite"
SNAPSHOT_EVERY_S = 1.0
RETRY_DELAY_S = 60.0
MAX_PROMPT_LENGTH = 4000
"""Characters of a prompt."""
MAX_FIELD_LENGTH = 500
"""Characters of one field of a prompt."""
MAX_JUDGED = 32
"""Samples of a prompt, before and after training each; a random choice."""

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids -> the text of each token."""


class Recorder:
    """The one writer. No method raises: a failure is kept in `trouble`, and retried after RETRY_DELAY_S."""

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        prompts: Mapping[str, str],
        pieces: Pieces,
        after_step: int = 0,
        sinks: Sequence[Sink] = (),
        fields: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        """`about` describes the run to the page (task, model, steps, limits ...); `prompts` maps id -> text, `fields`
        id -> the prompt's fields.

        A resumed run writes the learner's rows and samples beyond `after_step` again: they are deleted.
        """
        self._path = path
        self._about = dict(about)
        self._prompts = {name: text[:MAX_PROMPT_LENGTH] for name, text in prompts.items()}
        self._fields = {name: {key: _cut(value) for key, value in of.items()} for name, of in fields.items()}
        self._pieces = pieces
        self._sinks = sinks
        self._closed = False
        self._detector = EventDetector(self._about["limits"], path.parent)
        self._store: HistoryStore | None = None
        self._last_snapshot_s = self._failed_s = float("-inf")
        self._phase, self._step = "", after_step
        self.trouble: str | None = None
        """The reason why recording fails, as a sentence; None while it works."""
        self._guarded(self._open)

    def step(self, row: Mapping[str, Any], notes: Mapping[str, Any] | None) -> None:
        """One learner row, and its notes (learner/step_samples.py) if it has any. Written with the next snapshot."""
        self._step = int(row["step"])
        self._guarded(lambda store: self._take_step(store, row, notes))
        for sink in self._sinks:
            sink.row(row)

    def rewind(self, step: int) -> None:
        """The learner goes on after `step`: later rows come again."""
        self._step = step
        self._guarded(lambda store: store.cut(step))

    def snapshot(self, snapshot: Snapshot) -> None:
        """The run's state; at most one a second, and whenever the phase changes. Commits earlier rows."""
        now = time.monotonic()
        if now - self._last_snapshot_s < SNAPSHOT_EVERY_S and snapshot.phase == self._phase:
            return
        self._last_snapshot_s, self._phase = now, snapshot.phase
        self._guarded(lambda store: self._take_snapshot(store, snapshot))

    def process(self, text: str, is_trouble: bool) -> None:
        """A process joined, left, or could not start. Written with the next snapshot."""
        event = Event("process", "warning" if is_trouble else "info", "driver", text)
        self._guarded(lambda store: store.event(time.time(), self._step, event))

    def judged(self, phase: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Samples drawn to judge the model `before` or `after` training."""
        self._guarded(lambda store: self._take_judged(store, phase, samples))

    def close(self, stopped_by: str | None, error: str | None = None) -> None:
        """Record the end of the run. Nothing is written afterwards; a second call does nothing."""

        def end(store: HistoryStore) -> None:
            text = f"The run failed: {error}" if error else f"Stopped by {stopped_by}." if stopped_by else "Finished."
            level = "error" if error else "warning" if stopped_by else "info"
            store.event(time.time(), self._step, Event("end", level, "run", text))
            end = {"at": time.time(), "stopped_by": stopped_by, "error": error, "step": self._step}
            store.meta("end", end)
            store.close()

        if self._closed:
            return
        self._closed = True
        self._guarded(end)
        self._store = None
        for sink in self._sinks:
            sink.close()

    def _open(self, store: HistoryStore) -> None:
        store.begin(self._step)
        process = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
        earlier = store.read_meta("about") or self._about
        store.meta("about", self._about | {"began_at": earlier["began_at"]})  # of the run's first start
        store.meta("process", process)
        store.meta("end", None)
        store.prompts(self._prompts)
        store.fields(self._fields)
        text = f"Resumed after step {self._step}." if self._step else "The run began."
        if self.trouble:
            text = f"Recording continues after step {self._step}; earlier rows could not be written."
        store.event(time.time(), self._step, Event("start", "info", "run", text))
        store.commit()

    def _take_step(self, store: HistoryStore, row: Mapping[str, Any], notes: Mapping[str, Any] | None) -> None:
        at = time.time()
        figures = {**row, **{name: value for name, value in (notes or {}).items() if name != "rows"}}
        store.learner(at, self._step, figures)
        for noted in (notes or {}).get("rows", ()):
            pieces = self._pieces(noted["token_ids"])
            sample = {name: value for name, value in noted.items() if name != "token_ids"}
            store.sample(at, self._step, {**sample, "phase": "train", "pieces": pieces})
        for event in self._detector.step(at, figures):
            store.event(at, self._step, event)

    def _take_snapshot(self, store: HistoryStore, snapshot: Snapshot) -> None:
        at = time.time()
        row = as_row(snapshot)
        for event in self._detector.snapshot(at, row):
            store.event(at, self._step, event)
        store.snapshot(at, self._step, row)
        alerts = [alert.as_dict() for alert in self._detector.alerts]
        newest = {"at": at, "step": self._step, "snapshot": row, "alerts": alerts, "restarts": self._detector.restarts}
        store.meta("now", newest | {"buffer": buffer_totals(snapshot.buffer, histograms=True)})
        store.commit()
        store.thin()

    def _take_judged(self, store: HistoryStore, phase: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        for prompt_id, drawn in samples.items():
            for sample in _random(drawn, MAX_JUDGED):
                row = {
                    "prompt_id": prompt_id,
                    "behaviour": "on_policy",
                    "phase": phase,
                    "log_q": sample.log_q,
                    "log_reward": sample.log_reward,
                    "pieces": self._pieces(sample.token_ids.tolist()),
                    "terms_last": dict(sample.terms),
                }
                store.sample(time.time(), self._step, row)
        store.commit()

    def _guarded(self, write: Callable[[HistoryStore], None]) -> None:
        """Report a failure and try again later: the dashboard's history must not end a run of days."""
        if self._store is None and time.monotonic() - self._failed_s < RETRY_DELAY_S:
            return
        try:
            if self._store is None:
                self._store = HistoryStore(self._path)
                if write != self._open:
                    self._open(self._store)
            write(self._store)
            self.trouble = None
        except Exception as error:
            self._failed_s = time.monotonic()
            self.trouble = f"the dashboard's history cannot be written ({_reason(error)}): {self._path}"
            if self._store is not None:
                self._store.abandon()
            self._store = None


def _cut(value: Any) -> Any:
    return value[:MAX_FIELD_LENGTH] if isinstance(value, str) else value


def _random(drawn: Sequence[Sample], n: int) -> list[Sample]:
    """At most n of them, always the same ones, in random order: the engine gives short strings first."""
    return [drawn[k] for k in np.random.default_rng(0).permutation(len(drawn))[:n]]


def _reason(error: Exception) -> str:
    """The failure in words; the usual one is a full disk."""
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return "the disk is full; free some space, the run itself continues"
    return f"{type(error).__name__}: {error}"
