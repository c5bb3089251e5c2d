"""From one moment of a run to the next: what happened, and which alarms stand."""

import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.telemetry.alert_rules import RECENT_S, WINDOW, Alert, AlertInputs, alerts_of, is_number

VERSION_EVERY_S = 10.0
"""Between two noted versions: a learner may publish several a second."""
LONG_WAIT = 10
"""Snapshots in a row after which a wait is an event."""
NOTED = 10
"""Noted steps that rules on fresh rows look back on."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: str
    """start, phase, version, restart, process, wait, quarantine, skipped, alarm, end"""
    level: str
    """info, warning or error"""
    who: str
    text: str


class EventDetector:
    """Remembers what the last moments said, in bounded space."""

    def __init__(self, limits: Mapping[str, float], folder: Path) -> None:
        self._known = AlertInputs(limits)
        self._folder = folder
        self._phase = ""
        self._first_var_u: list[float] = []
        self._var_u: deque[float] = deque(maxlen=2 * WINDOW)
        self._spreads: deque[float] = deque(maxlen=NOTED)
        self._diversity: deque[float] = deque(maxlen=NOTED)
        self._skipped: deque[tuple[float, int]] = deque()
        self._set_aside: deque[tuple[float, int]] = deque()
        self._version_noted_at = float("-inf")
        self._lived_s: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._standing: dict[str, Alert] = {}
        self.restarts: dict[str, int] = {}
        """Actor -> times it was seen to begin anew."""

    @property
    def alarms(self) -> list[Alert]:
        """Those that stand now."""
        return list(self._standing.values())

    def step(self, at: float, row: Mapping[str, Any]) -> Iterator[Event]:
        """Take in a learner row with what its fresh rows said."""
        if is_number(row["var_u"]):
            (self._var_u if len(self._first_var_u) >= WINDOW else self._first_var_u).append(row["var_u"])
        if "quantiles" in row and is_number(row["quantiles"][0]):
            self._spreads.append(row["quantiles"][-1] - row["quantiles"][0])
            self._diversity.append(row["diversity"])
        if self._skipped and row["skipped_steps"] > self._skipped[-1][1]:
            yield Event("skipped", "warning", "learner", f"Step {row['step']} was skipped: its loss was not finite.")
        _remember(self._skipped, at, row["skipped_steps"])
        if row["version"] != self._known.version and at - self._version_noted_at >= VERSION_EVERY_S:
            self._version_noted_at = at
            yield Event("version", "info", "learner", f"Version {row['version']} was published.")
        self._known.version = row["version"]

    def moment(self, at: float, moment: Mapping[str, Any]) -> list[Event]:
        """Take in how the run stands; `moment` as in deploy/telemetry/snapshot.py."""
        events = [*self._phases(moment), *self._restarts(at, moment), *self._waits(moment), *self._losses(at, moment)]
        return events + self._alarms(at, moment)

    def _phases(self, moment: Mapping[str, Any]) -> Iterator[Event]:
        if moment["phase"] != self._phase:
            self._phase = moment["phase"]
            yield Event("phase", "info", "run", f"{self._phase[:1].upper()}{self._phase[1:]}.")

    def _restarts(self, at: float, moment: Mapping[str, Any]) -> Iterator[Event]:
        """An actor's own clock starts anew with its loop."""
        for actor in moment["actors"]:
            name = actor["name"]
            if actor["seconds"] < self._lived_s.get(name, 0.0):
                self.restarts[name] = self.restarts.get(name, 0) + 1
                yield Event("restart", "warning", name, f"{name} was started again.")
            self._lived_s[name] = actor["seconds"]
        heard = {actor["name"]: at for actor in moment["actors"]}
        self._known.heard = {**self._known.heard, **heard}

    def _waits(self, moment: Mapping[str, Any]) -> Iterator[Event]:
        """A wait is known by its name, the sentence up to the first colon; its counts change."""
        now = {sentence.split(":")[0]: sentence for sentence in moment["waits"]}
        self._waiting = {name: self._waiting.get(name, 0) + 1 for name in now}
        for name, moments in self._waiting.items():
            if moments == LONG_WAIT:
                yield Event("wait", "info", name.split(" waits")[0], now[name])

    def _losses(self, at: float, moment: Mapping[str, Any]) -> Iterator[Event]:
        buffer = moment["buffer"]
        if not buffer:
            return
        total = buffer["quarantined"] + buffer["refused"].get("reward_failed", 0)
        if self._set_aside and (more := total - self._set_aside[-1][1]) > 0:
            reasons = [worker["last_failure"] for worker in moment["rewards"] if worker["last_failure"]]
            why = f" The last one because {reasons[-1]}" if reasons else ""
            yield Event("quarantine", "warning", "buffer", f"{more} strings were set aside.{why}")
        _remember(self._set_aside, at, total)

    def _alarms(self, at: float, moment: Mapping[str, Any]) -> list[Event]:
        known = self._known
        known.now, known.buffer, known.actors = at, moment["buffer"], moment["actors"]
        known.var_u = [*self._first_var_u, *self._var_u]
        known.spreads, known.diversity = list(self._spreads), list(self._diversity)
        known.skipped, known.set_aside = list(self._skipped), list(self._set_aside)
        known.free_bytes = shutil.disk_usage(self._folder).free
        found = {alarm.id: alarm for alarm in alerts_of(known)}
        raised = [Event("alarm", a.level, a.id, a.what) for a in found.values() if a.id not in self._standing]
        cleared = [Event("alarm", "info", name, f"No longer: {self._standing[name].what}") for name in self._standing]
        cleared = [event for event in cleared if event.who not in found]
        since = {name: alarm.since for name, alarm in self._standing.items()}
        self._standing = {name: replace(alarm, since=since.get(name, at)) for name, alarm in found.items()}
        return raised + cleared


def _remember(readings: deque[tuple[float, int]], at: float, value: int) -> None:
    """The readings of the last RECENT_S, bounded also where there are many a second."""
    readings.append((at, value))
    while readings[0][0] < at - RECENT_S or len(readings) > 10_000:
        readings.popleft()
