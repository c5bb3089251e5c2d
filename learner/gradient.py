"""From a batch to the gradient of its loss, in as many passes as its tokens need, on as many ranks as there are.

A loss is a function of log q alone. So log q comes first, pass by pass; then the loss and its gradient with respect to
log q, over all passes and ranks at once; then each pass carries its part of that gradient back to the adapter. This is
exact for every objective, also for those that compare trajectories of different passes or ranks. With one pass the
graph of the first step is used; with several it would hold all of them in memory, so each is computed again.

Shapes   B trajectories of this rank, T response tokens.
"""

from collections.abc import Sequence

import torch
from torch import nn

from learner.batch import Batch
from learner.objectives.balance import Estimates, Loss, Objective, log_q_of_strings, log_z_estimates
from learner.policy import LoraPolicy
from learner.ranks import Ranks


class Gradient:
    """Computes the loss of a batch and leaves its gradient in the parameters."""

    def __init__(
        self, policy: LoraPolicy, parameters: Sequence[nn.Parameter], objective: Objective, lam: float, ranks: Ranks
    ) -> None:
        self._policy = policy
        self._parameters = parameters
        self._objective = objective
        self._lam = lam
        self._ranks = ranks

    def of(self, batch: Batch, temperature: float) -> tuple[Estimates, Loss]:
        """Set the gradients of the loss over all ranks; R is tempered here and nowhere else.

        Returns this rank's estimates, without gradient, and the loss over all ranks with the residuals [B] of this one.
        """
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        several = len(batch.parts) > 1
        with torch.set_grad_enabled(not several):
            passes = [self._policy.log_probs_of(batch, part) for part in batch.parts]
        device = self._policy.device
        log_pf = torch.zeros(batch.is_action.shape, device=device)
        log_pterm = torch.zeros(batch.may_stop.shape, device=device)
        for part, scored in zip(batch.parts, passes, strict=True):
            log_pf[part.rows] = scored.log_pf.detach()
            log_pterm[part.rows] = scored.log_pterm.detach()
        log_pf.requires_grad_(True)
        log_pterm.requires_grad_(True)

        estimates, loss = self._loss(batch, log_pf, log_pterm, temperature)
        to_pf, to_pterm = torch.autograd.grad(loss.value, (log_pf, log_pterm), materialize_grads=True)
        for part, scored in zip(batch.parts, passes, strict=True):
            if several:
                scored = self._policy.log_probs_of(batch, part)
            torch.autograd.backward((scored.log_pf, scored.log_pterm), (to_pf[part.rows], to_pterm[part.rows]))
        self._ranks.add_gradients(self._parameters)
        return estimates, Loss(loss.numerator.detach(), loss.denominator.detach(), loss.residual)

    def _loss(
        self, batch: Batch, log_pf: torch.Tensor, log_pterm: torch.Tensor, temperature: float
    ) -> tuple[Estimates, Loss]:
        device, ranks = log_pf.device, self._ranks
        counts = batch.counts.to(device)
        u = log_z_estimates(log_pf, log_pterm, batch.log_reward.to(device) / temperature)
        log_q = log_q_of_strings(log_pf, log_pterm, counts)
        prompt = batch.prompt.to(device)
        own = Estimates(u.detach(), counts, prompt.unique(return_inverse=True)[1], log_q.detach())
        loss = self._objective(
            Estimates(
                u=ranks.rows_of_all(u),
                counts=ranks.rows_of_all(counts),
                group=ranks.rows_of_all(prompt).unique(return_inverse=True)[1],
                log_q=ranks.rows_of_all(log_q),
            ),
            self._lam,
        )
        return own, Loss(loss.numerator, loss.denominator, ranks.own_rows(loss.residual, len(prompt)))
