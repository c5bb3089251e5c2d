"""Trains one run from start to end, in a new folder or from a checkpoint."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from buffer.errors import ConfigError
from deploy.artifacts.run_folder import RunFolder, check_disk
from deploy.artifacts.scale_file import ScaleFile
from deploy.cluster.placement import check_placement, ray_session
from deploy.cluster.process_setup import Address
from deploy.cluster.ray_folder import check_ray_folder
from deploy.cluster.system import System
from deploy.config import shown_config
from deploy.driver.check_machine import unchecked
from deploy.driver.describe_adapter import describe_adapter
from deploy.driver.finish import make_summary, show_result
from deploy.driver.observers import Observers
from deploy.driver.preflight import Checked, check_store
from deploy.driver.recording import recording
from deploy.driver.redis_session import redis_session
from deploy.driver.run_setup import RunSetup
from deploy.driver.stop_signal import StopSignal
from deploy.driver.train_options import DEFAULT_OPTIONS, TrainOptions
from deploy.driver.training import Training
from deploy.driver.training_progress import TrainingProgress
from deploy.telemetry.live_view import LiveView

NEEDED_DISK_BYTES = 500 * 2**20
"""For a run's folder and Ray's session: several times what the demo takes."""


def train(
    checked: Checked, path: Path, replace_run: bool, console: Console, options: TrainOptions = DEFAULT_OPTIONS
) -> dict[str, Any]:
    """Check Ray's folder, store and disk, make the run's folder, train; returns the summary."""
    check_ray_folder()
    check_store(checked.config.buffer)
    check_disk(path, NEEDED_DISK_BYTES)
    folder = RunFolder.create(path, replace=replace_run)
    folder.write_config(shown_config(checked.config))
    with folder.lock():
        return execute(RunSetup(checked, folder, console, options))


def resume(
    checked: Checked, folder: RunFolder, console: Console, options: TrainOptions = DEFAULT_OPTIONS
) -> dict[str, Any]:
    """Continue from the newest checkpoint, or from step 0 if the run died before its first one; returns the summary."""
    from learner.checkpoint import Checkpoints  # imports torch, which takes seconds

    check_ray_folder()
    check_store(checked.config.buffer)
    check_disk(folder.path, NEEDED_DISK_BYTES)
    learner = checked.config.learner
    checkpoints = Checkpoints(folder.checkpoints, learner.advanced.keep_checkpoints)
    newest = checkpoints.newest()
    checkpoint = newest.numbers if newest else None
    for damage in checkpoints.damaged:
        console.print(
            f"[yellow]A checkpoint is damaged, so the run continues from the one before it[/yellow] ({escape(damage)})",
            soft_wrap=True,
        )
    if checkpoint and checkpoint.step >= learner.steps and folder.finished_steps() >= learner.steps:
        raise ConfigError(
            f"{folder.path} has done all its learner.steps = {learner.steps}. To train it further, give a larger "
            f"number: tributary train --resume {folder.path} learner.steps={2 * learner.steps}"
        )
    with folder.lock():
        folder.write_config(shown_config(checked.config))
        return execute(RunSetup(checked, folder, console, options, resumed=True, checkpoint=checkpoint))


def execute(setup: RunSetup) -> dict[str, Any]:
    """Train; returns the summary, an empty one if a signal came before training began.

    However it ends, no process is left and the newest adapter is in the folder.
    """
    with StopSignal() as stop:
        try:
            return _run(setup, stop)
        except KeyboardInterrupt:
            if not stop.starting:
                raise
    setup.console.print(stop.before_training)
    return {}


def _run(setup: RunSetup, stop: StopSignal) -> dict[str, Any]:
    """Start all parts of a run, train, stop them; KeyboardInterrupt if a signal comes before training begins."""
    checked, folder, console = setup.checked, setup.folder, setup.console
    progress, scale = TrainingProgress(), ScaleFile(folder.path)
    title = f"{setup.config.task.name} · {Path(checked.spec.base_model).name} · {folder.path}"
    with (
        recording(checked, folder, setup.first_step, setup.options, console, stop) as recorder,
        redis_session(checked, folder, setup.resumed, console) as (redis_url, buffer),
        ray_session(),
    ):
        check_placement(setup.config)
        if note := unchecked(setup.config):
            console.print(note, soft_wrap=True)
        system = System(setup.config, _address(setup, redis_url))
        try:
            with LiveView(console, title, setup.config.learner.steps) as view:
                observers = Observers(folder, buffer, recorder, view)
                results = Training(setup, system, buffer, observers, progress, scale, stop).run()
            version, _ = system.newest_adapter()
            summary = make_summary(setup, progress, version, results, stop.name)
            folder.write_summary(summary)
            describe_adapter(checked, folder)  # with the certificate
            recorder.close(stop.name)
            show_result(setup, summary, results)
            return summary
        finally:
            system.kill()


def _address(setup: RunSetup, redis_url: str) -> Address:
    return Address(
        setup.config,
        setup.checked.spec,
        redis_url,
        buffer_name=setup.folder.name,
        task_name=setup.config.task.name,
        checkpoints=str(setup.folder.checkpoints),
        adapter_store="adapter_store",
    )
