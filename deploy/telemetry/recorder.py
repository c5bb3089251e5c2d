"""A run's history, for the dashboard: what the driver hears anyway, kept in `history.sqlite` in the run's folder.

consumes   learner rows with their notes, snapshots, judged samples
produces   history.sqlite: tables below, one writer, WAL, one transaction a moment
waits for  nothing; what can't be written is told (`trouble`), never raised into the run
unblocked by  nobody

table     row                                                                    thinned out beyond
meta      key -> JSON: about the run, newest moment in full, pid, end
learner   one a learner step: figures, and what its fresh rows said               80 MiB
moments   one a second: totals of the buffer, actors, reward workers, waits       40 MiB
samples   noted rows, all that is known of each                                   48 MiB
events    what happened                                                            4 MiB
prompts   id, text

`id` counts through all tables, so one number says how far a reader has read. A table that outgrows its bytes loses
every second row of its older half: the older, the coarser.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from deploy.telemetry.event_detector import Event, EventDetector
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.sinks import Sink
from deploy.telemetry.snapshot import Snapshot, as_row, buffer_totals
from rewards.task import Sample

FILE = "history.sqlite"
MOMENT_EVERY_S = 1.0
TRY_AGAIN_S = 60.0
MOST_TEXT = 4000
"""Characters kept of a prompt."""
JUDGED_KEPT = 32
"""Of a prompt's samples, before and after training."""

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids -> as many pieces of text."""


class Recorder:
    """The one writer. No method raises; a failure is in `trouble` and another try is made after TRY_AGAIN_S."""

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        prompts: Mapping[str, str],
        pieces: Pieces,
        after_step: int = 0,
        sinks: Sequence[Sink] = (),
    ) -> None:
        """`about` is what the page says of the run (task, model, steps, limits ...); `prompts` id -> text.

        What an earlier life of the run recorded beyond `after_step` is cut.
        """
        self._path = path
        self._about = dict(about)
        self._prompts = {name: text[:MOST_TEXT] for name, text in prompts.items()}
        self._pieces = pieces
        self._sinks = sinks
        self._closed = False
        self._watch = EventDetector(self._about["limits"], path.parent)
        self._store: HistoryStore | None = None
        self._last_moment_s = self._failed_s = float("-inf")
        self._phase, self._step = "", after_step
        self.trouble: str | None = None
        """Why nothing is recorded now, in a sentence."""
        self._guarded(self._open)

    def step(self, row: Mapping[str, Any], notes: Mapping[str, Any] | None) -> None:
        """One learner row, and its notes (learner/step_samples.py) if it has any. Written with the next moment."""
        self._step = int(row["step"])
        self._guarded(lambda store: self._take_step(store, row, notes))
        for sink in self._sinks:
            sink.row(row)

    def snapshot(self, snapshot: Snapshot) -> None:
        """How the run stands; at most one a second, and whenever the phase changes. Writes what came before."""
        now = time.monotonic()
        if now - self._last_moment_s < MOMENT_EVERY_S and snapshot.phase == self._phase:
            return
        self._last_moment_s, self._phase = now, snapshot.phase
        self._guarded(lambda store: self._take_moment(store, snapshot))

    def process(self, text: str, is_trouble: bool) -> None:
        """A process joined, left, or could not start. Written with the next moment."""
        event = Event("process", "warning" if is_trouble else "info", "driver", text)
        self._guarded(lambda store: store.event(time.time(), self._step, event))

    def judged(self, phase: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Samples drawn to judge the model `before` or `after` training."""
        self._guarded(lambda store: self._take_judged(store, phase, samples))

    def close(self, stopped_by: str | None, error: str | None = None) -> None:
        """The run's end: its last words. Nothing is written afterwards; a second call does nothing."""

        def end(store: HistoryStore) -> None:
            said = f"The run failed: {error}" if error else f"Stopped by {stopped_by}." if stopped_by else "Finished."
            level = "error" if error else "warning" if stopped_by else "info"
            store.event(time.time(), self._step, Event("end", level, "run", said))
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
        earlier = store.known("about") or self._about
        store.meta("about", self._about | {"began_at": earlier["began_at"]})  # of the run's first life
        store.meta("process", process)
        store.meta("end", None)
        store.prompts(self._prompts)
        said = f"Goes on after step {self._step}." if self._step else "The run began."
        if self.trouble:
            said = f"Recording goes on after step {self._step}; what lies between could not be written."
        store.event(time.time(), self._step, Event("start", "info", "run", said))
        store.commit()

    def _take_step(self, store: HistoryStore, row: Mapping[str, Any], notes: Mapping[str, Any] | None) -> None:
        at = time.time()
        said = {name: value for name, value in (notes or {}).items() if name != "rows"}
        store.learner(at, self._step, {**row, **said})
        for noted in (notes or {}).get("rows", ()):
            ids = noted["token_ids"]
            pieces = self._pieces(ids)
            kept = {name: value for name, value in noted.items() if name != "token_ids"}
            store.sample(at, self._step, {**kept, "phase": "train", "pieces": pieces})
        for event in self._watch.step(at, {**row, **said}):
            store.event(at, self._step, event)

    def _take_moment(self, store: HistoryStore, snapshot: Snapshot) -> None:
        at = time.time()
        moment = as_row(snapshot)
        for event in self._watch.moment(at, moment):
            store.event(at, self._step, event)
        store.moment(at, self._step, moment)
        alarms = [alarm.as_dict() for alarm in self._watch.alarms]
        now = {"at": at, "step": self._step, "moment": moment, "alarms": alarms, "restarts": self._watch.restarts}
        store.meta("now", now | {"buffer": buffer_totals(snapshot.buffer, histograms=True)})
        store.commit()
        store.thin()

    def _take_judged(self, store: HistoryStore, phase: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        for prompt_id, some in samples.items():
            for sample in some[:JUDGED_KEPT]:
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
        """Whatever goes wrong here is told and tried again later: a page to look at must not end a run of days."""
        if self._store is None and time.monotonic() - self._failed_s < TRY_AGAIN_S:
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
            self.trouble = f"the dashboard's history can't be written ({_reason(error)}): {self._path}"
            if self._store is not None:
                self._store.abandon()
            self._store = None


def _reason(error: Exception) -> str:
    """In words; the usual one is a full disk."""
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return "the disk is full; free some space, the run itself goes on"
    return f"{type(error).__name__}: {error}"
