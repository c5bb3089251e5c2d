"""log q of given strings, which anyone may have written, under the policy or under its base model."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from buffer.types import FloatArray, Trajectory
from learner.batch import Batch, collate
from learner.objectives.balance import log_q_of_strings
from learner.policy import LoraPolicy


@torch.no_grad()
def log_q_of_given(
    policy: LoraPolicy, strings: Sequence[Trajectory], max_tokens: int, base_model: bool = False
) -> FloatArray:
    """[N] log q(Z ⊤) of N whole strings, nats; of the base model, without the adapter, if `base_model`.

    The strings have a reward, whose value does not matter, and are ones that the policy can write. `max_tokens` of one
    pass, as in `collate`.
    """
    with policy.model.disable_adapter() if base_model else nullcontext():
        log_q: FloatArray = log_q_of_batch(policy, collate(strings, policy.spec, max_tokens)).numpy()
    return log_q


@torch.no_grad()
def log_q_of_batch(policy: LoraPolicy, batch: Batch) -> Tensor:
    """[B] log q(Z ⊤) of the whole strings of a batch, nats, fp32, on the CPU."""
    log_probs = policy.log_probs(batch)
    is_terminal = batch.is_terminal.to(policy.device)
    return log_q_of_strings(log_probs.log_pf, log_probs.log_pterm, is_terminal).float().cpu()
