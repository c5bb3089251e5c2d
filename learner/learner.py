"""The learner: draw, evaluate, take a SubTB step on the LoRA weights, publish.

consumes   batches of scored trajectories (BatchSource)
produces   adapter versions (publish), priorities (ReplayBuffer.reprioritize), one row of figures a step
waits for  data
unblocked by  reward workers
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from buffer.replay import Drawn, ReplayBuffer
from buffer.types import AdapterFiles, AdapterVersion, Prompt, Trajectory
from learner.adapter import adapter_files, adapter_version
from learner.batch import Batch, collate
from learner.config import LearnerConfig
from learner.diagnostics import posterior_figures, select, var_u
from learner.objectives import OBJECTIVES
from learner.objectives.balance import Estimates, Loss, at, first, log_q_of_strings, log_z_estimates
from learner.policy import LoraPolicy
from learner.priority import Priorities
from learner.schedule import learning_rate, reward_temperature
from learner.source import BatchSource

Publish = Callable[[AdapterVersion, AdapterFiles], None]
Row = dict[str, Any]


class Learner:
    """SubTB updates of one policy. `step` is the algorithm; `run` is the loop around it."""

    def __init__(
        self, policy: LoraPolicy, buffer: ReplayBuffer, config: LearnerConfig, publish: Publish, prompt: Prompt
    ) -> None:
        """`prompt` is what the canary of version 0 is read on; later ones take a string that was just learned from."""
        self._policy = policy
        self._buffer = buffer
        self._config = config
        self._publish = publish
        self._objective = OBJECTIVES[config.objective]
        self._priorities = Priorities(config.priority)
        self._parameters = policy.trainable_parameters()
        self._optimiser = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=config.weight_decay)
        self._stopping = threading.Event()
        self._source: BatchSource | None = None
        self._rows: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self.step_number = 0
        self.version = -1
        self.skipped_steps = 0
        self._publish_adapter(empty_string(prompt))

    def run(self, source: BatchSource) -> None:
        """Learn until `steps` are done or `stop` is called; the last step's adapter is published before it returns."""
        self._source = source
        source.start()
        try:
            while self.step_number < self._config.steps and not self._stopping.is_set():
                began = time.perf_counter()
                rows = source.next()
                if rows is None:
                    break
                waited = time.perf_counter() - began
                figures = self.step(rows)
                example = rows[0].trajectory
                if self.step_number % self._config.publish_every == 0:
                    self._publish_adapter(example)
                self._rows.put(
                    figures | {"wait_s": waited, "step_s": time.perf_counter() - began, "version": self.version}
                )
            if self.step_number != self._published_step:
                self._publish_adapter(example)
        finally:
            source.stop()

    def stop(self) -> None:
        """Finish the step under way, publish, return from `run`."""
        self._stopping.set()
        if self._source:
            self._source.stop()

    def drain(self) -> list[Row]:
        """The rows of figures since the last call."""
        return [self._rows.get() for _ in range(self._rows.qsize())]

    def step(self, rows: Sequence[Drawn]) -> Row:
        """One update on B trajectories; returns its figures. A loss or gradient that is not finite changes nothing."""
        batch = collate([row.trajectory for row in rows], self._policy.spec)
        rate = learning_rate(self.step_number, self._config)
        temperature = reward_temperature(self.step_number, self._config)

        estimates, loss = self._evaluate(batch, temperature)
        self._optimiser.zero_grad(set_to_none=True)
        loss.value.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm))
        if np.isfinite(norm) and bool(loss.value.isfinite()):
            for parameters in self._optimiser.param_groups:
                parameters["lr"] = rate
            self._optimiser.step()
            log_rewards = [float(row.trajectory.log_reward.sum(0)[-1]) for row in rows]
            self._buffer.reprioritize([row.id for row in rows], self._priorities.of(loss, log_rewards))
        else:
            self.skipped_steps += 1
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": float(loss.value),
            "grad_norm": norm,
            "learning_rate": rate,
            "reward_temperature": temperature,
            "skipped_steps": self.skipped_steps,
            "tree_nodes": len(batch.tree.token_ids),
            **self._figures(rows, estimates),
        }

    def _evaluate(self, batch: Batch, temperature: float) -> tuple[Estimates, Loss]:
        """u under the policy of now, with gradient, and the loss; R is tempered here and nowhere else."""
        scored = self._policy.log_probs(batch)
        device = scored.log_pf.device
        counts = batch.counts.to(device)
        estimates = Estimates(
            u=log_z_estimates(scored.log_pf, scored.log_pterm, batch.log_reward.to(device) / temperature),
            counts=counts,
            group=batch.group.to(device),
            log_q=log_q_of_strings(scored.log_pf, scored.log_pterm, counts),
        )
        return estimates, self._objective(estimates, self._config.subtb_lambda)

    def _figures(self, rows: Sequence[Drawn], estimates: Estimates) -> Row:
        """What the batch says of the policy, before the update."""
        fresh = [i for i, row in enumerate(rows) if row.fresh]
        on_policy = [i for i in fresh if rows[i].behaviour == "on_policy"]
        staleness = [self.version - rows[i].policy_version for i in fresh]
        labels: dict[str, list[float]] = {}
        for i in on_policy:
            for name, value in rows[i].trajectory.labels.items():
                labels.setdefault(name, []).append(value)
        chosen = select(estimates, on_policy)
        return {
            "var_u": var_u(chosen),
            **posterior_figures(chosen),
            "log_z": float(at(estimates.u.detach(), first(estimates.counts)).mean()),
            "log_reward": float(np.mean([rows[i].trajectory.log_reward.sum(0)[-1] for i in on_policy]))
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
        files = adapter_files(self._policy)
        tolerance = self._config.canary_tolerance
        self._publish(adapter_version(self._policy, files, self.version, self.step_number, example, tolerance), files)


def empty_string(prompt: Prompt) -> Trajectory:
    """The trajectory that stops at once: all that can be scored before anything was sampled."""
    return Trajectory(
        prompt_id=prompt.id,
        prompt_token_ids=prompt.token_ids,
        token_ids=np.zeros(0, np.int32),
        is_action=np.zeros(0, np.bool_),
        log_pf=np.zeros(0, np.float32),
        log_pterm=np.zeros(1, np.float32),
        policy_version=0,
        adapter_digest="",
        behaviour="canary",
        task="",
        sampled_at=0.0,
        sampling_s=0.0,
        log_reward=np.zeros((1, 1), np.float32),
        reward_terms=("none",),
    )
