"""Detects events and alerts from one snapshot of a run to the next."""

import math
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.telemetry.alert_rules import alerts_of
from deploy.telemetry.alerts import Alert, AlertInputs
from deploy.telemetry.learning_rules import WINDOW
from deploy.telemetry.process_rules import RESTART_WINDOW_S
from deploy.telemetry.snapshot import is_member

VERSION_EVERY_S = 10.0
"""Between two recorded versions: a learner may publish several a second."""
LONG_WAIT = 10
"""Consecutive snapshots after which a wait is an event."""
RECORDED_STEPS = 10
"""Recorded steps that rules on fresh rows look back on."""
MAX_READINGS = 10_000

Readings = deque[tuple[float, float]]
"""(time, total), oldest first."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: str
    """start, phase, version, restart, process, wait, quarantine, skipped, alert, end"""
    level: str
    """info, warning or error"""
    who: str
    text: str


class EventDetector:
    """Keeps what it needs of earlier steps and snapshots, in bounded space."""

    def __init__(self, limits: Mapping[str, float], folder: Path) -> None:
        self._inputs = AlertInputs(limits)
        self._folder = folder
        self._phase = ""
        self._first_var_u: list[float] = []
        self._newest_var_u: deque[float] = deque(maxlen=2 * WINDOW)
        self._spreads: deque[float] = deque(maxlen=RECORDED_STEPS)
        self._diversity: deque[float] = deque(maxlen=RECORDED_STEPS)
        self._data_ages: deque[float] = deque(maxlen=WINDOW)
        self._missing_mass: deque[float] = deque(maxlen=WINDOW)
        self._cut: deque[float] = deque(maxlen=WINDOW)
        self._totals: dict[str, Readings] = {}
        self._version_recorded_at = float("-inf")
        self._lived_s: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._active: dict[str, Alert] = {}
        self.restarts: dict[str, int] = {}
        """Actor -> restarts seen."""

    @property
    def alerts(self) -> list[Alert]:
        """The active alerts."""
        return list(self._active.values())

    def step(self, at: float, row: Mapping[str, Any]) -> Iterator[Event]:
        """Take in a learner row and the figures of its fresh rows."""
        if _is_finite(row["var_u"]):
            (self._newest_var_u if len(self._first_var_u) >= WINDOW else self._first_var_u).append(row["var_u"])
        if _is_finite(row["staleness_mean"]):
            self._data_ages.append(row["staleness_mean"])
        if _is_finite(row.get("missing_mass", math.nan)):
            self._missing_mass.append(row["missing_mass"])
        if _is_finite(row.get("cut", math.nan)):
            self._cut.append(row["cut"])
        if "quantiles" in row and _is_finite(row["quantiles"][0]):
            self._spreads.append(row["quantiles"][-1] - row["quantiles"][0])
            self._diversity.append(row["diversity"])
        if self._add_reading("skipped_steps", at, row["skipped_steps"]) > 0:
            yield Event("skipped", "warning", "learner", f"Step {row['step']} was skipped: its loss was not finite.")
        if row["version"] != self._inputs.version and at - self._version_recorded_at >= VERSION_EVERY_S:
            self._version_recorded_at = at
            yield Event("version", "info", "learner", f"Version {row['version']} was published.")
        self._inputs.version, self._inputs.last_step_at = row["version"], at

    def snapshot(self, at: float, snapshot: Mapping[str, Any]) -> list[Event]:
        """Take in the run's state; `snapshot` as in deploy/telemetry/snapshot.py."""
        events = [
            *self._phase_events(snapshot),
            *self._restart_events(at, snapshot),
            *self._wait_events(snapshot),
            *self._quarantine_events(at, snapshot),
        ]
        self._read_totals(at, snapshot)
        return events + self._alert_events(at, snapshot)

    def _phase_events(self, snapshot: Mapping[str, Any]) -> Iterator[Event]:
        if snapshot["phase"] != self._phase:
            self._phase = snapshot["phase"]
            yield Event("phase", "info", "run", f"{self._phase[:1].upper()}{self._phase[1:]}.")

    def _restart_events(self, at: float, snapshot: Mapping[str, Any]) -> Iterator[Event]:
        """An actor's own clock starts again at 0 with its loop."""
        for actor in snapshot["actors"]:
            name = actor["name"]
            if actor["seconds"] < self._lived_s.get(name, 0.0):
                self.restarts[name] = self.restarts.get(name, 0) + 1
                yield Event("restart", "warning", name, f"{name} was started again.")
            self._lived_s[name] = actor["seconds"]
        replies = {**self._inputs.last_reply, **{actor["name"]: at for actor in snapshot["actors"]}}
        self._inputs.last_reply = {name: when for name, when in replies.items() if is_member(name, snapshot)}

    def _wait_events(self, snapshot: Mapping[str, Any]) -> Iterator[Event]:
        """A wait is identified by its name, the sentence up to the first colon; its counts change."""
        sentences = {sentence.split(":")[0]: sentence for sentence in snapshot["waits"]}
        self._waiting = {name: self._waiting.get(name, 0) + 1 for name in sentences}
        for name, snapshots in self._waiting.items():
            if snapshots == LONG_WAIT:
                yield Event("wait", "info", name.split(" waits")[0], sentences[name])

    def _quarantine_events(self, at: float, snapshot: Mapping[str, Any]) -> Iterator[Event]:
        buffer = snapshot["buffer"]
        if not buffer:
            return
        rows, strings = buffer["quarantined"], buffer["refused"].get("reward_failed", 0)
        self._add_reading("quarantined", at, rows + strings)
        if (more := self._add_reading("reward_failed", at, strings)) > 0:
            reasons = [worker["last_failure"] for worker in snapshot["rewards"] if worker["last_failure"]]
            reason = f" The last one because {reasons[-1]}" if reasons else ""
            yield Event("quarantine", "warning", "rewards", f"{more:.0f} strings were quarantined.{reason}")
        if (more := self._add_reading("quarantined_rows", at, rows)) > 0:
            text = f"{more:.0f} rows of the buffer were quarantined; `tributary buffer stats` has the reasons."
            yield Event("quarantine", "warning", "buffer", text)

    def _read_totals(self, at: float, snapshot: Mapping[str, Any]) -> None:
        if buffer := snapshot["buffer"]:
            for total in ("inserted", "drawn", "arrivals"):
                self._add_reading(total, at, buffer[total])
            self._add_reading("refused", at, sum(buffer["refused"].values()))
        for total in ("strings", "failed"):
            self._add_reading(total, at, sum(worker[total] for worker in snapshot["rewards"]))
        exceeded = sum(actor.get("canaries_exceeded", 0) for actor in snapshot["actors"])
        self._add_reading("canaries_exceeded", at, exceeded)
        self._add_reading("restarts", at, sum(self.restarts.values()))

    def _alert_events(self, at: float, snapshot: Mapping[str, Any]) -> list[Event]:
        inputs = self._inputs
        inputs.now, inputs.buffer = at, snapshot["buffer"]
        inputs.actors, inputs.workers = snapshot["actors"], snapshot["rewards"]
        inputs.var_u = [*self._first_var_u, *self._newest_var_u]
        inputs.spreads, inputs.diversity = list(self._spreads), list(self._diversity)
        inputs.data_ages, inputs.totals = list(self._data_ages), self._totals
        inputs.missing_mass, inputs.cut = list(self._missing_mass), list(self._cut)
        inputs.free_bytes = shutil.disk_usage(self._folder).free
        alerts = {alert.id: alert for alert in alerts_of(inputs)}
        raised = [Event("alert", a.level, a.id, a.what) for a in alerts.values() if a.id not in self._active]
        cleared = [
            Event("alert", "info", name, f"No longer: {alert.what}")
            for name, alert in self._active.items()
            if name not in alerts
        ]
        since = {name: alert.since for name, alert in self._active.items()}
        self._active = {name: replace(alert, since=since.get(name, at)) for name, alert in alerts.items()}
        return raised + cleared

    def _add_reading(self, total: str, at: float, value: float) -> float:
        """Keep a reading; returns the growth since the one before. Of equal readings the first and last are kept."""
        readings = self._totals.setdefault(total, deque(maxlen=MAX_READINGS))
        growth = value - readings[-1][1] if readings else 0
        if len(readings) >= 2 and readings[-2][1] == readings[-1][1] == value:
            readings.pop()
        readings.append((at, value))
        while readings[0][0] < at - RESTART_WINDOW_S:  # the longest window of a rule
            readings.popleft()
        return growth


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
