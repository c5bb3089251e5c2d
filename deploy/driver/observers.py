"""Everything that follows a run from outside: live view, dashboard history, metrics, log and metrics.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

from buffer.replay import ReplayBuffer
from deploy.artifacts.run_folder import RunFolder
from deploy.cluster.metrics import Meter
from deploy.cluster.process_events import ProcessEvent
from deploy.cluster.system import System
from deploy.driver.training_progress import TrainingProgress
from deploy.telemetry.live_view import LiveView
from deploy.telemetry.logs import process_log
from deploy.telemetry.recorder import Recorder
from deploy.telemetry.snapshot import Snapshot
from rewards.task import Sample


class Observers:
    """Passes on what happens in a run."""

    def __init__(self, folder: RunFolder, buffer: ReplayBuffer, recorder: Recorder, view: LiveView) -> None:
        self._folder = folder
        self._buffer = buffer
        self._recorder = recorder
        self._view = view
        self._meter = Meter(folder.name, "driver-0")
        self._log = process_log(folder.name, "driver-0", folder.path / "log.jsonl")

    def show(self, progress: TrainingProgress, phase: str, waits: Sequence[str] = ()) -> None:
        """Show the state of the run."""
        troubles = [self._recorder.trouble] if self._recorder.trouble else []
        if self._buffer.load_scripts():  # a server that was restarted has none, and other roles may load none
            text = "Redis was restarted: its clients go on with what it has kept"
            self._tell(ProcessEvent("restart", "redis", text), progress.step)
        stats = self._buffer.stats()
        snapshot = Snapshot(
            progress.row,
            stats,
            progress.actors,
            phase,
            progress.elapsed_s,
            [*waits, *troubles],
            progress.rewards,
            progress.actor_names,
        )
        self._meter.buffer(stats)
        self._view.update(snapshot)
        self._recorder.snapshot(snapshot)

    def add_row(self, row: Mapping[str, Any], notes: Mapping[str, Any] | None) -> None:
        """Keep one row of the learner, and the notes on its samples if there are any."""
        self._folder.append_metrics(row)
        self._recorder.step(row, notes)

    def rewind(self, step: int) -> None:
        """Forget the rows after `step`: the learner goes on from there."""
        self._folder.cut_metrics(step)
        self._recorder.rewind(step)

    def add_samples(self, phase: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Keep evaluation samples, drawn `before` or `after` training."""
        self._recorder.judged(phase, samples)

    def report_processes(self, system: System, waits: Sequence[str], step: int) -> None:
        """Report the number of processes of each role and the events since the last call."""
        self._meter.members(system.ready, system.requested, len(waits))
        for event in system.events():
            self._tell(event, step)

    def _tell(self, event: ProcessEvent, step: int) -> None:
        self._log.info(event.text, extra={"kind": event.kind, "step": step})
        if event.kind == "restart":
            self._meter.restart(event.role)
        self._recorder.process(event.text, is_trouble=event.kind in ("restart", "ended", "trouble"))
        if event.kind in ("restart", "ended"):  # a trouble stays among the waits
            self._view.tell(event.text)
