"""The learner: draw, evaluate, take a step of the objective on the LoRA weights, publish.

consumes   batches of scored trajectories (BatchSource)
produces   adapter versions (AdapterPublisher), priorities (ReplayBuffer.reprioritize), one row of figures a step
waits for  data
unblocked by  reward workers
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from buffer.drawn_rows import Drawn
from buffer.errors import TributaryError
from buffer.replay import ReplayBuffer
from buffer.types import Prompt, Trajectory
from learner.adapter import adapter_files, digest
from learner.batch import Batch, collate
from learner.batch_source import BatchSource
from learner.checkpoint import Checkpoints
from learner.checkpointer import Checkpointer
from learner.config import LearnerConfig
from learner.data_parallel import DataParallel
from learner.figures import Figures, TargetDistance, batch_figures, sampled_step, staleness
from learner.gradient import Gradient
from learner.known_mass import KnownMass
from learner.objectives.balance import Estimates, Loss, last_terminal, value_at
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from learner.priority import Priorities
from learner.publisher import AdapterPublisher, Publish
from learner.schedule import learning_rate, reward_temperature
from learner.step_samples import StepSampler


class Learner:
    """Updates of one policy. `step` is the algorithm; `run` is the loop around it."""

    def __init__(
        self,
        policy: LoraPolicy,
        buffer: ReplayBuffer,
        config: LearnerConfig,
        publish: Publish,
        prompt: Prompt,
        checkpoints: Checkpoints | None = None,
        data_parallel: DataParallel | None = None,
        support: Sequence[Trajectory] = (),
        weights: Mapping[str, float] | None = None,
        weights_at: Callable[[int], Mapping[str, float]] | None = None,
        beta_at: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        """Continue from the newest of `checkpoints`, if there is one, and publish the policy's adapter.

        `prompt` serves the first canary; later ones take the longest string that was just learned from. `support` is
        the strings that carry the target's mass, scored, where the task lists them; `weights` are those of reward
        terms in the last target, `weights_at` those of a step's target, if they change; `beta_at` is reported.
        """
        self._policy = policy
        self._buffer = buffer
        self._config = config
        self._weights = {} if weights is None else weights
        self._weights_at = weights_at or (lambda step: self._weights)
        self._beta_at = beta_at
        self._data_parallel = parallel = data_parallel or DataParallel()
        is_leader = parallel.is_leader
        parameters = policy.trainable_parameters()
        self._gradient = Gradient(policy, parameters, config.objective, config.advanced.subtb_lambda, parallel)
        self._optimiser = Optimiser(parameters, config.advanced.weight_decay, config.advanced.max_grad_norm)
        self._priorities = Priorities(config.priority_shares, config.advanced.recency_half_life)
        self._target_distance = TargetDistance(policy, support, config, self._weights)
        self._known_mass = KnownMass()
        self._step_sampler = StepSampler() if is_leader else None
        self._stopping = threading.Event()
        self._source: BatchSource | None = None
        self._rows: queue.SimpleQueue[Figures] = queue.SimpleQueue()

        self._checkpointer = Checkpointer(checkpoints, policy, self._optimiser, self._priorities, is_leader)
        restored = self._checkpointer.restore()
        self.step_number = restored.step if restored else 0
        self.skipped_steps = restored.skipped_steps if restored else 0
        self._skipped_in_a_row = 0
        if self._data_parallel.world_size > 1:
            self._data_parallel.check_same_start(self.step_number, digest(adapter_files(policy)))
        restored_version = restored.version if restored else -1
        tolerance = config.canary_tolerance_of(policy.spec.dtype)
        self._publisher = AdapterPublisher(policy, buffer, publish, tolerance, is_leader, restored_version)
        self._publisher.publish_first(self.step_number, prompt)

    @property
    def version(self) -> int:
        """The number of the newest published adapter."""
        return self._publisher.version

    def run(self, source: BatchSource) -> None:
        """Learn until `steps` are done or `stop` is called, then publish the last step's adapter and save."""
        self._source = source
        try:
            while self.step_number < self._config.steps:
                began = time.perf_counter()
                rows = None if self._stopping.is_set() else source.next()
                if not self._data_parallel.all_agree(rows is not None) or rows is None:
                    break
                drawn = time.perf_counter()
                figures = self.step(rows)
                samples, stepped = figures.pop("step_samples"), time.perf_counter()
                example = max((row.trajectory for row in rows), key=lambda t: len(t.token_ids))
                if self.step_number % self._config.publish_every == 0:
                    self._publisher.publish(self.step_number, example)
                ended = time.perf_counter()
                figures |= {"wait_s": drawn - began, "step_s": ended - began, "publish_s": ended - stepped}
                figures["version"] = self.version
                if self._data_parallel.is_leader:  # nobody reads the rows of the others
                    self._rows.put(figures | {"step_samples": samples})
                self._checkpointer.add_row(figures)
                if self.step_number % self._config.checkpoint_every == 0:
                    self.save()
            if self.step_number != self._publisher.published_step:
                self._publisher.publish(self.step_number, example)
            self.save()
        finally:
            source.stop()

    def stop(self) -> None:
        """Finish the step under way, publish, save, return from `run`."""
        self._stopping.set()
        if self._source:
            self._source.stop()

    def drain(self) -> list[Figures]:
        """The rows of figures since the last call."""
        rows = [self._rows.get() for _ in range(self._rows.qsize())]
        if rows:
            self._checkpointer.delivered(int(rows[-1]["step"]))
        return rows

    def save(self) -> None:
        """Write a checkpoint, unless this step has one. StoreError where another learner has taken over the run."""
        if self._data_parallel.is_leader:
            self._buffer.lease.require()
        self._checkpointer.save(self.step_number, self.version, self.skipped_steps)

    def step(self, rows: Sequence[Drawn]) -> Figures:
        """One update on B trajectories; return its figures, with "step_samples" (learner/step_samples.py) among them.

        A loss or gradient that is not finite changes nothing, and the batch is quarantined: it would do the same again.
        """
        weights = self._weights_at(self.step_number)
        batch = collate([row.trajectory for row in rows], self._policy.spec, self._config.max_tokens, weights)
        rate = learning_rate(self.step_number, self._config)
        temperature = reward_temperature(self.step_number, self._config)
        target_distance = self._target_distance.compute(self.step_number, temperature)

        estimates, loss = self._gradient.compute(batch, temperature)
        grad_norm = self._optimiser.clip_gradients()
        if np.isfinite(grad_norm) and bool(loss.value.isfinite()):
            self._optimiser.step(rate)
            self._reprioritize(rows, batch, loss, temperature)
            self._skipped_in_a_row = 0
        else:
            self._skip(rows, f"step {self.step_number + 1}: loss {float(loss.value)}, gradient norm {grad_norm}")
        steps_done = self.step_number
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": float(loss.value),
            "grad_norm": grad_norm,
            "learning_rate": rate,
            "reward_temperature": temperature,
            "beta": self._beta_at(steps_done),
            "skipped_steps": self.skipped_steps,
            "tree_nodes": batch.tree_nodes,
            "passes": len(batch.parts),
            **batch_figures(rows, batch, estimates, self.version),
            "sampled_step": sampled_step(rows, self.version, steps_done, self._config.publish_every),
            "missing_mass": self._missing_mass(rows, batch, estimates, temperature)
            if weights == self._weights
            else math.nan,
            **target_distance,
            "step_samples": self._samples(rows, batch, estimates),
        }

    def _samples(self, rows: Sequence[Drawn], batch: Batch, estimates: Estimates) -> Figures | None:
        """Rows for people to read; None on ranks that do not report and for most steps of a fast learner."""
        if self._step_sampler is None:
            return None
        return self._step_sampler.sample(rows, batch.log_reward, estimates, self._gradient.log_probs, self.version)

    def _missing_mass(self, rows: Sequence[Drawn], batch: Batch, estimates: Estimates, temperature: float) -> float:
        """The share of known mass that the draws leave out (learner/known_mass.py), from this rank's rows."""
        u = value_at(estimates.u.detach(), last_terminal(estimates.is_terminal))
        return self._known_mass.add(rows, batch.log_reward_of_strings.tolist(), u.tolist(), temperature)

    def _reprioritize(self, rows: Sequence[Drawn], batch: Batch, loss: Loss, temperature: float) -> None:
        """Send new priorities to the buffer; a row that had nothing to be compared with (NaN) keeps the one it has."""
        ages = [staleness(row, self.version) for row in rows]
        prompt_ids = [row.trajectory.prompt_id for row in rows]
        log_rewards = batch.log_reward_of_strings.tolist()
        priorities = self._priorities.compute(loss, log_rewards, temperature, prompt_ids, ages)
        finite = [(row.id, value) for row, value in zip(rows, priorities, strict=True) if np.isfinite(value)]
        self._buffer.reprioritize([id_ for id_, _ in finite], [value for _, value in finite])

    def _skip(self, rows: Sequence[Drawn], reason: str) -> None:
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        self._buffer.quarantine(rows, reason)
        if self._skipped_in_a_row >= self._config.advanced.max_skipped_steps:
            raise TributaryError(
                f"{self._skipped_in_a_row} steps in a row had no finite loss or gradient, the last one {reason}. "
                "Nothing was learned from them and their trajectories are in the buffer's quarantine. Look at the "
                "rewards, lower learner.learning_rate, or raise model.dtype's precision."
            )
