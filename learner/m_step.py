"""The M-step of EM: a fresh adapter on the base model that makes the right one of a few continuations the likely one.

E-step   a run samples rationales Z from the posterior p(Z | X, Y)
M-step   here: maximise log p(Y | X, Z), normalised over the alternatives of each context, on those Z
then     the frozen model, with this adapter merged into it, scores the next E-step (Hu et al., arXiv 2310.04363, 4.3)

Shapes   B choices, A alternatives of a choice, C tokens of a context, Y of an alternative.
"""

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
from learner.policy import LoraPolicy
from learner.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class Choice:
    """A context and what may follow it."""

    context: IntArray
    """[C] prompt and rationale, X Z."""
    alternatives: Sequence[IntArray]
    """A times [Y]: such as the labels, each as it would be written behind Z. Two or more, none empty."""
    right: int = 0
    """Which of them is true."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What an M-step made."""

    files: AdapterFiles
    losses: tuple[float, ...]
    """Cross-entropy of each step's batch before the step, nats."""


def m_step(
    spec: PolicySpec, choices: Sequence[Choice], config: LearnerConfig, device: torch.device, seed: int = 0
) -> Fitted:
    """Train a fresh adapter of `spec`'s kind for `config.steps` steps of `config.batch_size` choices each.

    Batches go through all choices in random order, and again. Of `config` also count the learning rate with its
    schedule, weight_decay, max_grad_norm, max_tokens and gradient_checkpointing. Raise ConfigError for choices that
    are none.
    """
    check_choices(choices)
    torch.manual_seed(seed)
    policy = LoraPolicy(spec, device, config.gradient_checkpointing)
    parameters = policy.trainable_parameters()
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.advanced.weight_decay)
    losses = []
    for step, batch in zip(range(config.steps), _batches(choices, config.batch_size, seed), strict=False):
        optimiser.zero_grad()
        loss = 0.0
        for part in _passes(batch, config.max_tokens):
            entropy = -log_shares(policy, part).sum() / len(batch)
            entropy.backward()
            loss += float(entropy.detach())
        torch.nn.utils.clip_grad_norm_(parameters, config.advanced.max_grad_norm)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, config)
        optimiser.step()
        losses.append(loss)
    return Fitted(adapter_files(policy), tuple(losses))


def log_shares(policy: LoraPolicy, choices: Sequence[Choice]) -> Tensor:
    """[B] log of the right alternative's share, exp(log p(right | context)) over the sum of all its alternatives, nats.

    One pass; a context that several alternatives share is computed once.
    """
    batch = collate([row for choice in choices for row in _rows(choice)], policy.spec)
    log_p = policy.log_probs(batch, masked=False).log_pf.sum(1)
    of_choice = log_p.split([len(choice.alternatives) for choice in choices])
    return torch.stack([p.log_softmax(0)[choice.right] for p, choice in zip(of_choice, choices, strict=True)])


def check_choices(choices: Sequence[Choice]) -> None:
    """ConfigError where there is nothing to choose, with the number of the choice."""
    if not choices:
        raise ConfigError(
            "the M-step has no choice to learn from: give it samples, and a task that asks two questions."
        )
    for number, choice in enumerate(choices):
        empty = not len(choice.context) or not all(len(target) for target in choice.alternatives)
        if len(choice.alternatives) < 2 or empty or not 0 <= choice.right < len(choice.alternatives):
            raise ConfigError(
                f"choice {number} of the M-step has a context of {len(choice.context)} tokens, alternatives of "
                f"{[len(target) for target in choice.alternatives]} and right = {choice.right}: it needs a token of "
                "context, two alternatives or more with a token each, and one of them right."
            )


def _rows(choice: Choice) -> list[Trajectory]:
    """Its alternatives, as responses to its context."""
    context = Prompt("", "", choice.context)
    return [
        given_trajectory(context, y, "choice", np.zeros((1, len(y) + 1), np.float32), ("none",))
        for y in choice.alternatives
    ]


def _batches(choices: Sequence[Choice], size: int, seed: int) -> Iterator[list[Choice]]:
    """Without end; as many choices each as there are, where that is less than `size`."""
    rng, size = np.random.default_rng(seed), min(size, len(choices))
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += rng.permutation(len(choices)).tolist()
        yield [choices[k] for k in waiting[:size]]
        waiting = waiting[size:]


def _passes(choices: Sequence[Choice], max_tokens: int) -> Iterator[list[Choice]]:
    """At most `max_tokens` tokens, or one choice where that is more; 0: all at once."""
    part: list[Choice] = []
    room = max_tokens
    for choice in choices:
        need = len(choice.context) + sum(map(len, choice.alternatives))
        if part and max_tokens and need > room:
            yield part
            part, room = [], max_tokens
        part.append(choice)
        room -= need
    yield part
