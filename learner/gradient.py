"""From a batch to the gradient of its loss, in as many passes as its tokens need, on as many ranks as there are.

A loss is a function of log q alone. So log q comes first, pass by pass; then the loss and its gradient with respect to
log q, over all passes and ranks at once; then each pass carries its part of that gradient back to the adapter. This is
exact for every objective, also for those that compare trajectories of different passes or ranks. A single pass keeps
its graph; several graphs would not fit into memory together, so each pass is computed a second time.

An objective that compares no trajectories is a sum over them, divided by a number that depends on masks only. Its
passes run one after the other, each computed once.

Shapes   B trajectories of this rank, T response tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from buffer.errors import AdapterError
from learner.batch import Batch
from learner.data_parallel import DataParallel
from learner.objectives import find_objective
from learner.objectives.balance import Estimates, Loss, log_q_of_strings, log_z_estimates
from learner.policy import LoraPolicy, PrefixLogProbs


class Gradient:
    """Computes the loss of a batch and leaves its gradient in the parameters."""

    def __init__(
        self,
        policy: LoraPolicy,
        parameters: Sequence[nn.Parameter],
        objective: str,
        lam: float,
        data_parallel: DataParallel,
    ) -> None:
        """`objective` is a name as `find_objective` takes it, `lam` its λ."""
        self._policy = policy
        self._parameters = parameters
        self._objective, self._compares = find_objective(objective)
        self._lam = lam
        self._data_parallel = data_parallel
        self.log_probs: PrefixLogProbs
        """Log-probabilities of the last batch given to `compute`, without gradient."""

    def compute(self, batch: Batch, temperature: float) -> tuple[Estimates, Loss]:
        """Set the gradients of the loss over all ranks; R of the loss is tempered here and nowhere else.

        Returns this rank's estimates, without gradient, and the loss over all ranks with the residuals [B] of this one.
        AdapterError where a LoRA tensor does not take part in the loss, since it would stay as it is for the whole run,
        and where a weight of the base model would be trained.
        """
        for parameter in self._parameters:
            parameter.grad = None
        log_pf = torch.zeros(batch.is_action.shape, device=self._policy.device)
        log_pterm = torch.zeros(batch.may_stop.shape, device=self._policy.device)
        # the ranks exchange rows on the way, so all must take the same branch, however many passes each has
        if self._compares or self._data_parallel.all_agree(len(batch.parts) == 1):
            estimates, loss = self._joint(batch, temperature, log_pf, log_pterm)
        else:
            estimates, loss = self._pass_by_pass(batch, temperature, log_pf, log_pterm)
        self._require_gradients()
        self._data_parallel.sum_gradients(self._parameters)
        self.log_probs = PrefixLogProbs(log_pf.detach(), log_pterm.detach())
        return estimates, Loss(loss.numerator.detach(), loss.denominator.detach(), loss.residual)

    def _require_gradients(self) -> None:
        """AdapterError unless backward reached every LoRA tensor, and nothing else is trained."""
        parameters = list(self._policy.model.named_parameters())
        adapter = [(name, parameter) for name, parameter in parameters if ".lora_" in name]
        base = [name for name, parameter in parameters if ".lora_" not in name and parameter.requires_grad]
        unreached = [name for name, parameter in adapter if parameter.grad is None]
        if base:
            raise AdapterError(
                f"{len(base)} weights of the base model would be trained too: {', '.join(base[:4])}"
                f"{', ...' if len(base) > 4 else ''}. Actors get the adapter alone, so they would sample another "
                "policy than the learner's. Report this."
            )
        if unreached:
            raise AdapterError(
                f"{len(unreached)} of {len(adapter)} LoRA tensors have no gradient: {', '.join(unreached[:4])}"
                f"{', ...' if len(unreached) > 4 else ''}. These layers have no part in text, so nothing would "
                "be learned in them. Take them out of model.lora_targets."
            )

    def _joint(self, batch: Batch, temperature: float, log_pf: Tensor, log_pterm: Tensor) -> tuple[Estimates, Loss]:
        """The gradient of a loss of all rows together; fills log_pf [B, T] and log_pterm [B, T+1]."""
        several = len(batch.parts) > 1
        with torch.set_grad_enabled(not several):
            passes = [self._policy.log_probs_of(batch, part) for part in batch.parts]
        for part, scored in zip(batch.parts, passes, strict=True):
            log_pf[part.rows], log_pterm[part.rows] = scored.log_pf.detach(), scored.log_pterm.detach()
        log_pf.requires_grad_(True)
        log_pterm.requires_grad_(True)
        estimates, loss = self._loss(batch, log_pf, log_pterm, temperature)
        to_pf, to_pterm = torch.autograd.grad(loss.value, (log_pf, log_pterm), materialize_grads=True)
        for part, scored in zip(batch.parts, passes, strict=True):
            if several:
                scored = self._policy.log_probs_of(batch, part)
            torch.autograd.backward((scored.log_pf, scored.log_pterm), (to_pf[part.rows], to_pterm[part.rows]))
        return estimates, loss

    def _pass_by_pass(
        self, batch: Batch, temperature: float, log_pf: Tensor, log_pterm: Tensor
    ) -> tuple[Estimates, Loss]:
        """The gradient of a loss that is a sum over rows; fills log_pf [B, T] and log_pterm [B, T+1]."""
        _, zero_loss = self._loss(batch, log_pf, log_pterm, temperature)
        for part in batch.parts:
            scored = self._policy.log_probs_of(batch, part)
            log_pf[part.rows], log_pterm[part.rows] = scored.log_pf.detach(), scored.log_pterm.detach()
            estimates = self._estimates(batch, part.rows, scored.log_pf, scored.log_pterm, temperature)
            numerator = self._objective(estimates, self._lam).numerator
            Loss(numerator, zero_loss.denominator, zero_loss.residual).value.backward()
        return self._loss(batch, log_pf, log_pterm, temperature)

    def _estimates(
        self, batch: Batch, rows: Tensor, log_pf: Tensor, log_pterm: Tensor, temperature: float
    ) -> Estimates:
        """Estimates of some rows [b] of the batch, whose log_pf [b, T] and log_pterm [b, T+1] are given."""
        device = log_pf.device
        is_terminal = batch.is_terminal[rows].to(device)
        return Estimates(
            u=log_z_estimates(log_pf, log_pterm, batch.log_reward[rows].to(device) / temperature),
            is_terminal=is_terminal,
            group=batch.prompt[rows].to(device).unique(return_inverse=True)[1],
            log_q=log_q_of_strings(log_pf, log_pterm, is_terminal),
            sampled_log_q=batch.sampled_log_q[rows].to(device),
        )

    def _loss(self, batch: Batch, log_pf: Tensor, log_pterm: Tensor, temperature: float) -> tuple[Estimates, Loss]:
        """This rank's estimates, without gradient, and the loss over all rows of all ranks."""
        gather, rows = self._data_parallel.gather_rows, torch.arange(len(batch.prompt))
        local = self._estimates(batch, rows, log_pf, log_pterm, temperature)
        loss = self._objective(
            Estimates(
                u=gather(local.u),
                is_terminal=gather(local.is_terminal),
                group=gather(batch.prompt.to(log_pf.device)).unique(return_inverse=True)[1],
                log_q=gather(local.log_q),
                sampled_log_q=gather(local.sampled_log_q),
            ),
            self._lam,
        )
        residual = self._data_parallel.local_rows(loss.residual, len(rows))
        return (
            Estimates(local.u.detach(), local.is_terminal, local.group, local.log_q.detach(), local.sampled_log_q),
            Loss(loss.numerator, loss.denominator, residual),
        )
