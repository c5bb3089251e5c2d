"""The learner: draw, evaluate, take a SubTB step on the LoRA weights, publish.

consumes   batches of scored trajectories (BatchSource)
produces   adapter versions (publish), priorities (ReplayBuffer.reprioritize), one row of figures a step
waits for  data
unblocked by  reward workers
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from buffer.errors import ConfigError, TributaryError
from buffer.replay import Drawn, ReplayBuffer
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory, given_trajectory, total_log_reward
from learner.adapter import adapter_files, adapter_tensors, adapter_version, digest, load_adapter
from learner.batch import collate
from learner.batch_source import BatchSource
from learner.checkpoint import Checkpoints, Numbers, State, load_optimiser, optimiser_tensors
from learner.config import LearnerConfig
from learner.data_parallel import DataParallel
from learner.diagnostics import exact_figures, posterior_figures, select, var_u
from learner.gradient import Gradient
from learner.objectives.balance import Estimates, at, first, log_q_of_strings
from learner.policy import LoraPolicy
from learner.priority import Priorities
from learner.schedule import learning_rate, reward_temperature
from learner.step_samples import StepSampler

Publish = Callable[[AdapterVersion, AdapterFiles], None]
Row = dict[str, Any]


class Learner:
    """SubTB updates of one policy. `step` is the algorithm; `run` is the loop around it."""

    def __init__(
        self,
        policy: LoraPolicy,
        buffer: ReplayBuffer,
        config: LearnerConfig,
        publish: Publish,
        prompt: Prompt,
        checkpoints: Checkpoints | None = None,
        ranks: DataParallel | None = None,
        support: Sequence[Trajectory] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Go on from the newest of `checkpoints`, if there is one, and publish what the policy is now.

        `prompt` is what the first canary is read on; later ones take a string that was just learned from. `support` is
        the strings that carry the target's mass, scored, where the task lists them; `weights` those of reward terms.
        """
        self._policy = policy
        self._buffer = buffer
        self._config = config
        self._publish = publish
        self._checkpoints = checkpoints
        self._ranks = ranks or DataParallel()
        self._support = support
        self._weights = weights or {}
        # a likelihood weighs all strings alike, and says so in its residuals
        self._priorities = Priorities(config.priority_shares, config.advanced.recency_half_life)
        self._parameters = policy.trainable_parameters()
        self._optimiser = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=config.advanced.weight_decay)
        self._gradient = Gradient(policy, self._parameters, config.objective, config.advanced.subtb_lambda, self._ranks)
        self._observer = StepSampler()
        self._stopping = threading.Event()
        self._source: BatchSource | None = None
        self._rows: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self.step_number = 0
        # what was published before a crash was sampled from; no number is ever used twice
        self.version = buffer.newest_version()
        self.skipped_steps = 0
        self._skipped_in_a_row = 0
        self._saved_step = -1
        self._rows_since_saved: list[Row] = []
        saved = checkpoints.newest() if checkpoints else None
        if saved:
            self._restore(saved)
        self._check_ranks()
        nothing = np.zeros(0, np.int32)
        self._publish_adapter(given_trajectory(prompt, nothing, "canary", np.zeros((1, 1), np.float32), ("none",)))

    def run(self, source: BatchSource) -> None:
        """Learn until `steps` are done or `stop` is called; the last step's adapter is published and its state saved
        before it returns."""
        self._source = source
        source.start()
        try:
            while self.step_number < self._config.steps:
                began = time.perf_counter()
                rows = None if self._stopping.is_set() else source.next()
                if not self._ranks.all_agree(rows is not None) or rows is None:
                    break
                waited = time.perf_counter() - began
                figures = self.step(rows)
                notes, example, stepped = figures.pop("notes"), rows[0].trajectory, time.perf_counter()
                if self.step_number % self._config.publish_every == 0:
                    self._publish_adapter(example)
                ended = time.perf_counter()
                figures |= {"wait_s": waited, "step_s": ended - began, "publish_s": ended - stepped}
                figures["version"] = self.version
                self._rows.put(figures | {"notes": notes})
                self._rows_since_saved.append(figures)
                if self.step_number % self._config.checkpoint_every == 0:
                    self.save()
            if self.step_number != self._published_step:
                self._publish_adapter(example)
            self.save()
        finally:
            source.stop()

    def stop(self) -> None:
        """Finish the step under way, publish, save, return from `run`."""
        self._stopping.set()
        if self._source:
            self._source.stop()

    def drain(self) -> list[Row]:
        """The rows of figures since the last call."""
        return [self._rows.get() for _ in range(self._rows.qsize())]

    def step(self, rows: Sequence[Drawn]) -> Row:
        """One update on B trajectories; returns its figures; "notes" (learner/step_samples.py) go into the history.

        A loss or gradient that is not finite changes nothing, and the batch is set aside: it would do the same again.
        """
        batch = collate([row.trajectory for row in rows], self._policy.spec, self._config.max_tokens, self._weights)
        rate = learning_rate(self.step_number, self._config)
        temperature = reward_temperature(self.step_number, self._config)
        exact = self._exact_figures(temperature)

        estimates, loss = self._gradient.compute(batch, temperature)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.advanced.max_grad_norm))
        if np.isfinite(norm) and bool(loss.value.isfinite()):
            for parameters in self._optimiser.param_groups:
                parameters["lr"] = rate
            self._optimiser.step()
            log_rewards = [self._log_reward(row.trajectory) for row in rows]
            ages = [self.version - row.policy_version if row.trajectory.adapter_digest else 0 for row in rows]
            self._reprioritize(rows, self._priorities.compute(loss, log_rewards, ages))
            self._skipped_in_a_row = 0
        else:
            self._skip(rows, f"step {self.step_number + 1}: loss {float(loss.value)}, gradient norm {norm}")
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": float(loss.value),
            "grad_norm": norm,
            "learning_rate": rate,
            "reward_temperature": temperature,
            "skipped_steps": self.skipped_steps,
            "tree_nodes": batch.tree_nodes,
            "passes": len(batch.parts),
            **self._figures(rows, estimates),
            **exact,
            "notes": self._notes(rows, estimates),
        }

    def _notes(self, rows: Sequence[Drawn], estimates: Estimates) -> dict[str, Any] | None:
        """For people to look at; None for most steps of a quick learner, and of ranks that don't report."""
        if not self._ranks.leads:
            return None
        return self._observer.notes(rows, estimates, self._gradient.scored, self.version, self._weights)

    def _log_reward(self, trajectory: Trajectory) -> float:
        """Of the whole string, nats, untempered."""
        return float(total_log_reward(trajectory, self._weights)[-1])

    def _reprioritize(self, rows: Sequence[Drawn], priorities: Sequence[float]) -> None:
        """Rows that had nothing to be compared with keep the priority they have."""
        known = [(row.id, value) for row, value in zip(rows, priorities, strict=True) if np.isfinite(value)]
        self._buffer.reprioritize([id_ for id_, _ in known], [value for _, value in known])

    def save(self) -> None:
        """Write a checkpoint of now, unless this step has one."""
        if self._checkpoints is None or not self._ranks.leads or self._saved_step == self.step_number:
            return
        numbers = Numbers(
            step=self.step_number,
            version=self.version,
            skipped_steps=self.skipped_steps,
            largest_log_reward=self._priorities.largest,
            adapter_sha256=digest(adapter_files(self._policy)),
            rows=self._rows_since_saved,
        )
        adapter = {f"adapter.{name}": tensor for name, tensor in adapter_tensors(self._policy).items()}
        generator = {"torch_rng": torch.get_rng_state()}
        self._checkpoints.save(State(numbers, adapter | optimiser_tensors(self._optimiser) | generator))
        self._saved_step = self.step_number
        self._rows_since_saved = []

    def _restore(self, saved: State) -> None:
        numbers = saved.numbers
        prefix = "adapter."
        load_adapter(
            self._policy, {k.removeprefix(prefix): t for k, t in saved.tensors.items() if k.startswith(prefix)}
        )
        if digest(adapter_files(self._policy)) != numbers.adapter_sha256:
            raise TributaryError(
                f"the checkpoint of step {numbers.step} holds an adapter that is not the one it was made of "
                f"(sha256 {numbers.adapter_sha256[:12]}...). Remove the file to go on from the one before it."
            )
        load_optimiser(self._optimiser, saved.tensors)
        torch.set_rng_state(saved.tensors["torch_rng"])
        self._priorities.largest = numbers.largest_log_reward
        self.step_number = self._saved_step = numbers.step
        self.skipped_steps = numbers.skipped_steps
        self.version = max(numbers.version, self.version)

    def _check_ranks(self) -> None:
        """Gradients of different adapters must not be added up."""
        if self._ranks.size == 1:
            return
        start = digest(adapter_files(self._policy))
        if not self._ranks.all_same(self.step_number) or not self._ranks.all_same(int(start[:15], 16)):
            raise ConfigError(
                f"learner rank {self._ranks.number} begins after step {self.step_number} with adapter {start[:12]}, "
                "others elsewhere: every rank must see the run's checkpoints folder. Put the run on a disk that all "
                "nodes share."
            )

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

    def _exact_figures(self, temperature: float) -> Row:
        """Distance to the target before the update; NaN between two readings and where no strings are listed."""
        if not self._support or self.step_number % self._config.advanced.diagnose_every:
            return {"total_variation": float("nan"), "kl": float("nan")}
        batch = collate(self._support, self._policy.spec, self._config.max_tokens)
        with torch.no_grad():
            scored = self._policy.log_probs(batch)
        is_terminal = batch.is_terminal.to(self._policy.device)
        log_q = log_q_of_strings(scored.log_pf, scored.log_pterm, is_terminal).cpu()
        log_reward = torch.tensor([self._log_reward(t) for t in self._support])
        return exact_figures(log_q, log_reward / temperature, batch.prompt)

    def _figures(self, rows: Sequence[Drawn], estimates: Estimates) -> Row:
        """What the batch says of the policy, before the update."""
        fresh = [i for i, row in enumerate(rows) if row.fresh]
        on_policy = [i for i in fresh if rows[i].behaviour == "on_policy"]
        sampled = [i for i in fresh if rows[i].trajectory.adapter_digest]  # not the given strings
        staleness = [self.version - rows[i].policy_version for i in sampled]
        labels: dict[str, list[float]] = {}
        for i in on_policy:
            for name, value in rows[i].trajectory.labels.items():
                labels.setdefault(name, []).append(value)
        chosen = select(estimates, on_policy)
        return {
            "var_u": var_u(chosen),
            **posterior_figures(chosen),
            "log_z": float(at(estimates.u.detach(), first(estimates.is_terminal)).mean()),
            "log_reward": float(np.mean([self._log_reward(rows[i].trajectory) for i in on_policy]))
            if on_policy
            else float("nan"),
            "staleness_mean": float(np.mean(staleness)) if staleness else 0.0,
            "staleness_max": max(staleness, default=0),
            "fresh": len(fresh),
            "on_policy": len(on_policy),
            "labels": {name: float(np.mean(values)) for name, values in labels.items()},
        }

    def _publish_adapter(self, example: Trajectory) -> None:
        self.version += 1
        self._published_step = self.step_number
        if self._ranks.leads:
            files = adapter_files(self._policy)
            tolerance = self._config.canary_tolerance
            version = adapter_version(self._policy, files, self.version, self.step_number, example, tolerance)
            self._buffer.note_version(self.version)
            self._publish(version, files)
