"""The phases of a run: wait for the processes, evaluate the base model, train, evaluate the trained model."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from buffer.contents import contents
from buffer.errors import TributaryError, WaitTimeout
from buffer.full_disk import is_full, wait_of
from buffer.named_wait import NamedWait
from buffer.replay import ReplayBuffer
from buffer.types import AdapterVersion
from deploy.artifacts.best_strings import write_best_strings
from deploy.artifacts.scale_file import ScaleFile
from deploy.cluster.system import System
from deploy.driver.base_draws import BaseDraws
from deploy.driver.certificate import Certificate, certify
from deploy.driver.describe_adapter import describe_adapter, portable
from deploy.driver.evaluation import Judged, judge
from deploy.driver.known_strings import strings_of_run
from deploy.driver.observers import Observers
from deploy.driver.periodic_evaluation import PeriodicEvaluation
from deploy.driver.run_setup import RunSetup
from deploy.driver.samples import Samples, judged_prompts
from deploy.driver.stop_signal import StopSignal
from deploy.driver.training_progress import TrainingProgress
from learner.schedule import reward_temperature

if TYPE_CHECKING:
    from learner.checkpoint import Numbers

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The results of a run."""

    before: Judged | None
    after: Judged | None
    certificates: tuple[Certificate, Certificate] | None
    """The certificates of the base model and of the trained policy."""


class Training:
    """Drives the processes of one run through its phases.

    A stop signal ends the current phase and skips later ones; while the processes load it is a KeyboardInterrupt.
    """

    def __init__(
        self,
        setup: RunSetup,
        system: System,
        buffer: ReplayBuffer,
        observers: Observers,
        progress: TrainingProgress,
        scale: ScaleFile,
        stop: StopSignal,
    ) -> None:
        self._setup = setup
        self._system = system
        self._buffer = buffer
        self._observers = observers
        self._progress = progress
        self._scale = scale
        self._stop = stop
        self._out_of_patience = False
        self._periodic = PeriodicEvaluation(setup.folder.path, setup.checked, setup.first_step)

    def run(self) -> "Evaluations":
        """Both evaluations; each None if it is off or a signal came first."""
        self._system.wait_until_ready(
            lambda wait: self._observers.show(self._progress, "starting the engines", [wait] if wait else []),
            lambda name, seconds: self._setup.console.print(f"  {name}: ready after {seconds:.0f} s"),
        )
        self._stop.starting = False
        if self._setup.resumed:
            self._restore()
        of_base = self._sample(use_base_model=True)
        if not self._stop:
            self._score_demonstrations()
            self._train()
        temperature = reward_temperature(self._write_adapter().learner_step, self._setup.config.learner)
        self._system.stop_actors()
        of_trained = self._sample(use_base_model=False)
        self._keep_best_strings()
        certificates = self._certify(of_base, of_trained, temperature) if of_base and of_trained else None
        self._observers.show(self._progress, "done")
        return Evaluations(self._judge(of_base, temperature), self._judge(of_trained, temperature), certificates)

    def _restore(self) -> None:
        """Bring metrics.jsonl to the checkpoint's step and continue the training clock from there."""
        step = self._setup.first_step
        self._setup.folder.cut_metrics(step)
        newest = self._add_missing_rows(self._setup.checkpoint)
        self._progress.restore(newest)
        self._setup.console.print(f"Resuming after step {step}, with the trajectories that are in the buffer.")

    def _rewind(self) -> None:
        """Bring metrics.jsonl and the history to the checkpoint that a restarted learner has loaded."""
        from learner.checkpoint import Checkpoints  # imports torch, which takes seconds

        keep = self._setup.config.learner.advanced.keep_checkpoints
        newest = Checkpoints(self._setup.folder.checkpoints, keep).newest()
        checkpoint = newest.numbers if newest else None
        step = checkpoint.step if checkpoint else 0
        self._observers.rewind(step)
        self._periodic.rewind(step)
        self._progress.row = self._add_missing_rows(checkpoint)
        self._setup.console.print(f"The learner's process died. It is back, and goes on after step {step}.")

    def _add_missing_rows(self, checkpoint: "Numbers | None") -> dict[str, Any]:
        """Write the checkpoint's rows that the driver had not received; returns the newest row of all."""
        rows = self._setup.folder.metrics()
        newest = rows[-1] if rows else {}
        for row in checkpoint.rows if checkpoint else ():
            if row["step"] > newest.get("step", 0):
                newest = row | {"elapsed_s": newest.get("elapsed_s", 0.0)}
                self._observers.add_row(newest, None)
        return newest

    def _sample(self, use_base_model: bool) -> Samples | None:
        """Draw samples for the evaluation; None if it is off or a signal came first."""
        config, checked = self._setup.config.evaluation, self._setup.checked
        if self._stop or not config.samples:
            return None
        prompts, model = judged_prompts(checked), "base model" if use_base_model else "trained model"
        phase = f"{model}: {config.samples:,} samples per prompt"
        store = BaseDraws(checked, self._setup.folder.path, prompts) if use_base_model else None
        if drawn := store and store.read():
            phase += f", drawn by an earlier run (in {store.path.parent})"
            pending = self._system.score_draws(prompts, drawn)
        else:
            pending = self._system.sample(prompts, config.samples, use_base_model)
        wait = NamedWait("the run waits for samples", config.limit_s, lambda: "they are being drawn and scored")
        samples = None
        while samples is None and not self._stop:
            self._observers.show(self._progress, phase)
            samples = pending.result()
            wait.check()
        if samples is None:
            return None
        if store and store.applies and not drawn:
            store.write(pending.drawn())
        self._observers.add_samples("before" if use_base_model else "after", samples)
        return samples

    def _evaluate(self, is_last: bool = False) -> bool:
        """Evaluate the newest adapter while the learner goes on; True if it was told to end, being out of patience."""
        config, step, prompts = self._setup.config, self._progress.step, self._periodic.prompts
        self._system.stop_actors()
        adapter = self._system.newest_adapter()  # the learner goes on: the actors may sample the version after it
        pending = self._system.sample(prompts, config.evaluation.every_samples, False)
        wait = NamedWait("the run waits for samples", config.evaluation.limit_s, lambda: "evaluation while training")
        samples = None
        while samples is None and not self._stop:
            self._poll()
            self._report(f"evaluating step {step}")
            samples = pending.result()
            wait.check()
        if self._trains_on_draws and not is_last:
            self._system.start_actors()
        if samples is None:
            return False
        temperature = reward_temperature(step, config.learner)
        judged = judge(self._setup.checked, samples, self._setup.judges, temperature, config.evaluation.every_samples)
        self._setup.console.print(Text(self._periodic.add(step, judged, adapter)), soft_wrap=True)
        if self._periodic.is_out_of_patience and not is_last:
            text = f"No better {config.evaluation.best} in {config.evaluation.patience} evaluations: training ends."
            self._setup.console.print(text)
            self._system.stop_learner()
        return self._periodic.is_out_of_patience

    def _judge(self, samples: Samples | None, temperature: float) -> Judged | None:
        """Both models are judged after training, by the target at the reward temperature that training reached."""
        return None if samples is None else judge(self._setup.checked, samples, self._setup.judges, temperature)

    def _keep_best_strings(self) -> None:
        """Write the best strings of the buffer, which may go with the run's own Redis server."""
        checked = self._setup.checked
        prompt_ids = {prompt.id for prompt in judged_prompts(checked)}
        weights = self._setup.config.rewards.term_weights
        write_best_strings(self._setup.folder.path, contents(self._buffer), prompt_ids, weights, checked.tokenizer)

    def _certify(self, base: Samples, trained: Samples, temperature: float) -> tuple[Certificate, Certificate] | None:
        """The certificates of base model and trained policy, from their samples and the buffer's best strings.

        None where a signal came, or they failed: the learner may have died, and what was trained is not lost by that.
        """
        checked, folder = self._setup.checked, self._setup.folder
        if self._stop:
            return None
        self._observers.show(self._progress, "certificate: is it the posterior?")
        prompts, log_q = judged_prompts(checked), self._system.log_q
        try:
            strings = strings_of_run(checked, folder, base, trained, temperature)
            of_base, of_trained = (certify(checked, prompts, strings, temperature, log_q, b) for b in (True, False))
        except TributaryError as error:
            if type(error) not in (TributaryError, WaitTimeout):
                raise  # no process is missing: a reward or a setting is wrong
            text = f"No certificate: {error} To get one: tributary evaluate --run {folder.path}"
            self._setup.console.print(Text(text, "yellow"), soft_wrap=True)
            return None
        return of_base, of_trained

    def _score_demonstrations(self) -> None:
        """Fill the buffer with the demonstrations; after a resume they are in it already."""
        demonstrations = self._setup.checked.demonstrations
        if not demonstrations or (self._setup.checkpoint and self._buffer.stats().size):
            return
        is_done = self._system.score(demonstrations)
        wait = NamedWait(
            "the run waits for its demonstrations to be scored",
            self._setup.config.evaluation.limit_s,
            lambda: f"{len(demonstrations)} demonstrations",
        )
        while not self._stop and not is_done():
            self._observers.show(self._progress, "training")
            wait.check()

    @property
    def _trains_on_draws(self) -> bool:
        return self._setup.config.learner.objective != "sft"

    def _train(self) -> None:
        """Watch the loops until the learner has done its steps, or ends early because of a signal."""
        self._progress.begin_training()
        self._buffer.begin_draws()
        self._system.start(sampling=self._trains_on_draws)
        ended, stopping = False, False
        while not ended:
            ended = self._poll()
            if self._stop and not stopping:
                self._report()  # at once: a step may take a while
                self._system.stop_learner()
                self._write_adapter()  # now: the sender of the signal may not wait for the current step to end
                stopping = True
            elif not (ended or stopping) and self._periodic.is_due(self._progress.step):
                stopping = self._out_of_patience = self._evaluate()
            elif counts := self._scale.new_request():
                self._system.resize(counts)
            self._report()
        if self._periodic.is_behind(self._progress.step) and not (self._stop or self._out_of_patience):
            self._evaluate(is_last=True)  # the last adapter may be the best
        self._buffer.end_draws()
        self._progress.end_training()

    def _poll(self) -> bool:
        """Take care of processes that ended; True once the learner is done. A restarted learner goes on from here."""
        ended = self._system.poll(POLL_S)
        if self._system.learner_is_back:
            self._rewind()
            if self._stop or self._out_of_patience:
                self._system.stop_learner()
            self._system.run_learner()
        return ended

    def _report(self, phase: str = "training") -> None:
        """Collect what the processes report and pass it on, once the disk has room for it."""
        if self._stop:
            phase = f"{self._stop.name}: finishing the step, then writing the adapter; again to stop now"
        self._wait_for_room(phase)
        report = self._system.report()
        self._progress.update(report)
        for row in report.rows:
            notes = row.pop("step_samples", None)
            self._observers.add_row(self._progress.add_row(row), notes)
        self._observers.report_processes(self._system, report.waits, self._progress.step)
        self._scale.write(self._system.ready)
        self._observers.show(self._progress, phase, report.waits)

    def _wait_for_room(self, phase: str) -> None:
        """Show the wait for a full disk, which other processes are in as well. WaitTimeout after full_disk.LIMIT_S."""
        folder, wait = self._setup.folder.path, None
        while is_full(folder):
            wait = wait or wait_of(folder)
            wait.check()
            with suppress(OSError):  # the terminal may be a file on that disk
                self._observers.show(self._progress, phase if self._stop else "no room", [wait.sentence()])
            time.sleep(POLL_S)

    def _write_adapter(self) -> AdapterVersion:
        version, files = self._system.newest_adapter()
        checked, folder = self._setup.checked, self._setup.folder
        folder.write_adapter(portable(files, checked.config.model.name))
        folder.write_version(version)
        describe_adapter(checked, folder)
        return version
