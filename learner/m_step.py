"""The M-step of EM: a fresh adapter on the base model that makes the right one of a few continuations likely.

E-step   a run samples rationales Z from the posterior p(Z | X, Y)
M-step   here: maximise log p(Y | X, Z), normalised over the alternatives of each context, on those Z
then     the frozen model, with this adapter merged into it, scores the next E-step (Hu et al., arXiv 2310.04363, 4.3)

Shapes   B choices, A alternatives of a choice, C tokens of a context, Y of an alternative.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, IntArray, PolicySpec, Prompt, Trajectory, given_trajectory
from learner.adapter import adapter_files
from learner.batch import collate
from learner.config import LearnerConfig
from learner.optimiser import Optimiser
from learner.policy import LoraPolicy
from learner.schedule import learning_rate
from lm.packing import Cost, token_budget


@dataclass(frozen=True, slots=True)
class Choice:
    """A context and the alternatives that may follow it."""

    context: IntArray
    """[C] prompt and rationale, X Z."""
    alternatives: Sequence[IntArray]
    """A times [Y]: the labels, for example, each as it is written after Z. Two or more, none empty."""
    right: int = 0
    """Index of the true alternative."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of an M-step."""

    files: AdapterFiles
    losses: tuple[float, ...]
    """[steps] cross-entropy of each step's batch before its update, nats."""


def m_step(
    spec: PolicySpec, choices: Sequence[Choice], config: LearnerConfig, device: torch.device, seed: int = 0
) -> Fitted:
    """Train a fresh adapter of `spec`'s kind for `config.steps` steps of `config.batch_size` choices each.

    Batches go through all choices in random order, over and over. `config` also gives the learning rate and its
    schedule, weight_decay, max_grad_norm, max_tokens and gradient_checkpointing. ConfigError for malformed choices and
    a loss that is not finite.
    """
    check_choices(choices)
    torch.manual_seed(seed)
    policy = LoraPolicy(spec, device, config.gradient_checkpointing)
    optimiser = Optimiser(policy.trainable_parameters(), config.advanced.weight_decay, config.advanced.max_grad_norm)
    losses = []
    for step, batch in zip(range(config.steps), _batches(choices, config.batch_size, seed), strict=False):
        policy.model.zero_grad()
        loss = 0.0
        for part in _passes(batch, config.max_tokens):
            entropy = -log_shares(policy, part).sum() / len(batch)
            entropy.backward()
            loss += float(entropy.detach())
        if not math.isfinite(loss):
            raise ConfigError(
                f"the M-step's cross-entropy is {loss} at step {step}, with learning rate "
                f"{learning_rate(step, config):g}. No adapter was written. Lower --learning-rate."
            )
        optimiser.clip_gradients()
        optimiser.step(learning_rate(step, config))
        losses.append(loss)
    return Fitted(adapter_files(policy), tuple(losses))


def log_shares(policy: LoraPolicy, choices: Sequence[Choice]) -> Tensor:
    """[B] log of the right alternative's share of the probability of all alternatives, nats.

    One pass; a context that several alternatives share is computed once.
    """
    batch = collate([row for choice in choices for row in _rows(choice)], policy.spec)
    log_p = policy.log_probs(batch, masked=False).log_pf.sum(1)
    per_choice = log_p.split([len(choice.alternatives) for choice in choices])
    return torch.stack([p.log_softmax(0)[choice.right] for p, choice in zip(per_choice, choices, strict=True)])


def check_choices(choices: Sequence[Choice]) -> None:
    """ConfigError with the number of the first choice that offers nothing to choose from."""
    if not choices:
        raise ConfigError(
            "the M-step has no choices to learn from. Give it samples, and a task with two score requests or more."
        )
    for number, choice in enumerate(choices):
        empty = not len(choice.context) or not all(len(target) for target in choice.alternatives)
        if len(choice.alternatives) < 2 or empty or not 0 <= choice.right < len(choice.alternatives):
            raise ConfigError(
                f"choice {number} of the M-step has a context of {len(choice.context)} tokens, alternatives of "
                f"{[len(target) for target in choice.alternatives]} tokens and right = {choice.right}. It needs a "
                "context and two alternatives or more, none of them empty, and `right` must be the index of one."
            )


def _rows(choice: Choice) -> list[Trajectory]:
    """The alternatives of `choice` as responses to its context."""
    context = Prompt("", "", choice.context)
    return [
        given_trajectory(context, y, "choice", np.zeros((1, len(y) + 1), np.float32), ("none",))
        for y in choice.alternatives
    ]


def _batches(choices: Sequence[Choice], size: int, seed: int) -> Iterator[list[Choice]]:
    """Endless batches of `size` choices, or of all choices if there are fewer."""
    rng, size = np.random.default_rng(seed), min(size, len(choices))
    pending: list[int] = []
    while True:
        while len(pending) < size:
            pending += rng.permutation(len(choices)).tolist()
        yield [choices[k] for k in pending[:size]]
        pending = pending[size:]


def _passes(choices: Sequence[Choice], max_tokens: int) -> Iterator[list[Choice]]:
    """Choices of one pass each: at most `max_tokens` tokens, or a single longer choice; 0 puts all into one pass."""
    return token_budget(
        ((c, Cost(c.context.tobytes(), len(c.context), sum(map(len, c.alternatives)))) for c in choices), max_tokens
    )
