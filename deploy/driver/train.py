"""One run from start to end: check, start, judge the base model, train, judge the result, write it all down."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from buffer.errors import ConfigError
from buffer.named_wait import NamedWait
from buffer.replay import ReplayBuffer
from deploy.artifacts.run_folder import RunFolder, check_disk
from deploy.artifacts.scale_file import ScaleFile
from deploy.artifacts.summary import figures_of_rows, installed_versions
from deploy.cluster.metrics import Meter
from deploy.cluster.placement import check_placement, ray_session
from deploy.cluster.ray_actors import Address
from deploy.cluster.system import System
from deploy.config import shown_config
from deploy.driver.actor_totals import ActorTotals
from deploy.driver.evaluation import Judged, Samples, explanations, judge, judged_prompts, write_plots
from deploy.driver.preflight import Checked, check_store
from deploy.driver.recording import recording
from deploy.driver.redis_session import run_store
from deploy.driver.stop_signal import StopSignal
from deploy.driver.train_options import TrainOptions
from deploy.models.judges import find_judges, omitted_figures
from deploy.telemetry.live_view import LiveView, before_after_table, next_commands
from deploy.telemetry.logs import process_log
from deploy.telemetry.recorder import Recorder
from deploy.telemetry.snapshot import Snapshot
from learner.checkpoint import Checkpoints, Numbers

NEEDED_DISK_BYTES = 500 * 2**20
"""For a run's folder and Ray's session: what the demo takes, several times over."""
REPORT_EVERY_S = 0.5
DEFAULT_OPTIONS = TrainOptions(dashboard=False)


class Training:
    """A run under way and what is known of it so far."""

    def __init__(
        self,
        checked: Checked,
        folder: RunFolder,
        console: Console,
        watching: TrainOptions,
        resumed: bool = False,
        saved: Numbers | None = None,
    ) -> None:
        """`saved` is of the checkpoint that a resumed run goes on from, if it has one."""
        self._watching = watching
        self._recorder: Recorder
        self._checked = checked
        self._config = checked.config
        self._folder = folder
        self._console = console
        self._resumed = resumed
        self._saved = saved
        self._began = time.monotonic()
        self._row: dict[str, Any] = {}
        self._actors: list[dict[str, Any]] = []
        self._rewards: list[dict[str, Any]] = []
        self._judges = find_judges()
        self._tally = ActorTotals()
        self._training_s = 0.0
        self._trained_before_s = 0.0
        self._steps_before = saved.step if saved else 0
        self._stop = StopSignal()
        self._scale = ScaleFile(folder.path)
        self._meter = Meter(folder.name, "driver-0")
        self._log = process_log(folder.name, "driver-0", folder.path / "log.jsonl")

    def run(self) -> dict[str, Any]:
        """Train; returns the summary. Whatever ends it, no process is left and what was learned is in the folder."""
        steps = self._steps_before
        with (
            recording(self._checked, self._folder, steps, self._watching, self._console) as self._recorder,
            run_store(self._checked, self._folder, self._resumed, self._console) as (redis_url, buffer),
            ray_session(),
            self._stop,
        ):
            check_placement(self._config)
            task = self._config.task.name
            address = Address(
                self._config,
                self._checked.spec,
                redis_url,
                self._folder.name,
                task,
                checkpoints=str(self._folder.checkpoints),
                board="board",
            )
            system = System(self._config, address)
            try:
                return self._train(system, buffer)
            finally:
                system.kill()

    def _train(self, system: System, buffer: ReplayBuffer) -> dict[str, Any]:
        title = f"{self._config.task.name} · {Path(self._checked.spec.base_model).name} · {self._folder.path}"
        with LiveView(self._console, title, self._config.learner.steps) as view:

            def show(phase: str, waits: list[str]) -> None:
                elapsed = time.monotonic() - self._began
                rewards = system.reward_statuses
                told = [*waits, *([self._recorder.trouble] if self._recorder.trouble else [])]
                stats = buffer.stats()
                self._meter.buffer(stats)
                now = Snapshot(self._row, stats, self._actors, phase, elapsed, told, rewards)
                view.update(now)
                self._recorder.snapshot(now)

            def starting(wait: str) -> bool:
                show("starting the engines", [wait] if wait else [])
                return not self._stop

            if not system.wait_until_ready(starting):
                self._console.print(f"Stopped by {self._stop.name} before training began: nothing was learned.")
                return {}
            if self._resumed:
                self._go_on()
            n = self._config.evaluation.samples
            before = self._judge(system, True, lambda: show(f"base model: {n:,} samples a prompt", []))
            if not self._stop:
                self._loop(system, buffer, lambda waits: show("training", waits))
            self._write_adapter(system)
            system.stop_actors()
            after = None
            if not self._stop:
                after = self._judge(system, False, lambda: show(f"trained model: {n:,} samples a prompt", []))
            show("done", [])
        return self._finish(system, before, after)

    def _go_on(self) -> None:
        """After a resume: what was written beyond the checkpoint is cut, and time goes on from there."""
        self._folder.cut_metrics(self._steps_before)
        rows = self._folder.metrics()
        self._row = rows[-1] if rows else {}
        for row in self._saved.rows if self._saved else ():  # what the driver had not taken in when it died
            if row["step"] > self._row.get("step", 0):
                self._row = row | {"elapsed_s": self._row.get("elapsed_s", 0.0)}
                self._folder.append_metrics(self._row)
                self._recorder.step(self._row, None)
        self._trained_before_s = self._row.get("elapsed_s", 0.0)
        self._console.print(f"Going on after step {self._steps_before}, with what is in the buffer.")

    def _judge(self, system: System, use_base_model: bool, show: Callable[[], None]) -> Judged | None:
        """Draw and judge; None where a signal came first."""
        prompts = judged_prompts(self._checked)
        result = system.sample(prompts, self._config.evaluation.samples, use_base_model)
        wait = NamedWait(
            "the run waits for samples", self._config.evaluation.limit_s, lambda: "they are drawn and scored"
        )
        samples: Samples | None = None
        while samples is None and not self._stop:
            show()
            samples = result()
            wait.check()
        if samples is None:
            return None
        self._recorder.judged("before" if use_base_model else "after", samples)
        return judge(self._checked, samples, self._judges)

    def _give_demonstrations(self, system: System, buffer: ReplayBuffer, show: Callable[[], None]) -> None:
        """Given strings come first; after a resume they are in the buffer already."""
        if not self._checked.demonstrations or (self._saved and buffer.stats().size):
            return
        done = system.score(self._checked.demonstrations)
        wait = NamedWait(
            "the run waits for its demonstrations to be scored",
            self._config.evaluation.limit_s,
            lambda: f"{len(self._checked.demonstrations)} of them",
        )
        while not self._stop and not done():
            show()
            wait.check()

    def _loop(self, system: System, buffer: ReplayBuffer, show: Callable[[list[str]], None]) -> None:
        """Watch the loops until the learner has done its steps, or ends early because a signal came."""
        self._give_demonstrations(system, buffer, lambda: show([]))
        began = time.monotonic() - self._trained_before_s
        buffer.begin_draws()
        system.start(sampling=self._config.learner.objective != "sft")
        ended, asked = False, False
        while not ended:
            ended = system.poll(REPORT_EVERY_S)
            if self._stop and not asked:
                system.stop_learner()
                self._write_adapter(system)  # at once: whoever sent the signal may not wait for the step under way
                asked = True
            elif wanted := self._scale.new_request():
                system.resize(wanted)
            rows, self._actors, waits = system.report()
            self._rewards = system.reward_statuses
            self._tally.count(self._actors)
            for row in rows:
                notes = row.pop("notes", None)
                self._row = row | {"elapsed_s": time.monotonic() - began}
                self._folder.append_metrics(self._row)
                self._recorder.step(self._row, notes)
            self._tell(system, waits)
            show(waits)
        buffer.end_draws()
        self._training_s = time.monotonic() - began

    def _tell(self, system: System, waits: list[str]) -> None:
        """Those who watch from outside: metrics, logs, `tributary scale`."""
        self._meter.members(system.ready, system.wanted, len(waits))
        self._scale.write(system.ready)
        for event in system.events():
            self._log.info(event["text"], extra={"kind": event["kind"], "step": self._row.get("step", 0)})
            if event["kind"] == "restart":
                self._meter.restart(event["text"].partition("-")[0])
            else:  # restarts are seen in what actors say of themselves
                self._recorder.process(event["text"], is_trouble=event["kind"] == "trouble")

    def _write_adapter(self, system: System) -> None:
        version, files = system.newest_adapter()
        self._folder.write_adapter(files)
        self._folder.write_version(version)

    def _finish(self, system: System, before: Judged | None, after: Judged | None) -> dict[str, Any]:
        """Summary, plots, and what a person sees at the end."""
        version, _ = system.newest_adapter()
        trajectories, tokens = self._tally.total("trajectories"), self._tally.total("tokens")
        seconds = max(self._training_s - self._trained_before_s, 1e-9)  # actors count since they were started
        summary = {
            "task": self._config.task.name,
            "seconds": time.monotonic() - self._began,
            "training_seconds": self._training_s,
            "resumed_after_step": self._steps_before if self._resumed else None,
            "steps": self._row.get("step", 0),
            "trajectories": trajectories,
            "trajectories_per_s": trajectories / seconds,
            "tokens_per_s": tokens / seconds,
            "metrics": {"before": before and before.metrics, "after": after and after.metrics},
            **figures_of_rows(self._folder.metrics()),
            "rewards": self._rewards,
            "engine_busy": self._tally.engine_busy,
            "versions_published": version.number + 1,
            "canary_difference_max": self._tally.canary_difference_max,
            "adapter_sha256": version.digest,
            "stopped_by": self._stop.name,
            "versions": installed_versions(),
        }
        self._folder.write_summary(summary)
        self._recorder.close(self._stop.name)
        write_plots(self._folder, self._checked, before, after)
        if self._stop:
            self._console.print(
                f"\nStopped by {self._stop.name} after {summary['steps']} steps; "
                f"the adapter of that step is in {self._folder.path}/adapter."
            )
        if before and after:
            self._console.print(before_after_table(before.figures, after.figures, explanations(self._checked)))
        if after and (said := after.problem or omitted_figures(self._checked.task, after.figures, self._judges)):
            self._console.print(Text(said, "yellow"))
        self._console.print(next_commands(self._folder.path, self._config.learner.steps), soft_wrap=True)
        return summary


def train(
    checked: Checked, run: Path, replace_run: bool, console: Console, watching: TrainOptions = DEFAULT_OPTIONS
) -> dict[str, Any]:
    """Check what only this machine can tell, make the folder, train."""
    check_store(checked.config.buffer)
    check_disk(run, NEEDED_DISK_BYTES)
    folder = RunFolder.create(run, replace=replace_run)
    folder.write_config(shown_config(checked.config))
    with folder.lock():
        return Training(checked, folder, console, watching).run()


def resume(
    checked: Checked, folder: RunFolder, console: Console, watching: TrainOptions = DEFAULT_OPTIONS
) -> dict[str, Any]:
    """Go on from the newest checkpoint, or from step 0 where the run died before its first one."""
    check_store(checked.config.buffer)
    check_disk(folder.path, NEEDED_DISK_BYTES)
    learner = checked.config.learner
    newest = Checkpoints(folder.checkpoints, learner.advanced.keep_checkpoints).newest()
    saved = newest.numbers if newest else None
    if saved and saved.step >= learner.steps and folder.finished_steps() >= learner.steps:
        raise ConfigError(
            f"{folder.path} has done all its learner.steps = {learner.steps}. To train it further give a larger "
            f"number: tributary train --resume {folder.path} learner.steps={2 * learner.steps}"
        )
    with folder.lock():
        folder.write_config(shown_config(checked.config))
        return Training(checked, folder, console, watching, resumed=True, saved=saved).run()
