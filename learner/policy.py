"""The policy q: a frozen base model with a LoRA adapter, evaluated on the prefix tree of a batch.

Shapes   B trajectories, T response tokens, N tree nodes, S states (distinct prefixes), V vocabulary.
"""

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from buffer.types import PolicySpec
from learner.batch import Batch


@dataclass(frozen=True, slots=True)
class PrefixLogProbs:
    """log q of what a trajectory did and of what it could have stopped at, nats, fp32."""

    log_pf: Tensor
    """[B, T] of the token taken; 0 at tool tokens and padding."""
    log_pterm: Tensor
    """[B, T+1] of the stop token; 0 where stopping is forced, not possible, or padding."""


class LoraPolicy:
    """Base weights never change; only LoRA's A and B have gradients. Dropout is off in acting, scoring and learning."""

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        """Load `spec.base_model` and put a fresh adapter (B = 0, so q is the base model) on it."""
        self.spec = spec
        self.device = device
        base = AutoModelForCausalLM.from_pretrained(
            spec.base_model, dtype=getattr(torch, spec.dtype), attn_implementation="sdpa", local_files_only=True
        )
        lora = LoraConfig(
            r=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(spec.lora_targets),
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(base, lora).to(device).eval()
        self._trunk: nn.Module = self.model.get_base_model().base_model
        self._head: nn.Module = self.model.get_base_model().get_output_embeddings()
        self._allowed: Tensor | None = None
        if spec.allowed_token_ids is not None:
            self._allowed = torch.tensor(sorted({*spec.allowed_token_ids, spec.stop_token_id}), device=device)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """LoRA's A and B."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def log_probs(self, batch: Batch, masked: bool = True) -> PrefixLogProbs:
        """One pass over the distinct prefixes; logits at states only.

        Gradients flow to the adapter unless the caller turned them off. `masked=False` leaves out the allowed-token and
        min-action masks: the plain softmax that an engine reports for given text.
        """
        tree = batch.tree
        hidden = self._trunk(
            input_ids=torch.from_numpy(tree.token_ids)[None].to(self.device),
            position_ids=torch.from_numpy(tree.positions)[None].to(self.device),
            attention_mask=torch.from_numpy(tree.sees)[None, None].to(self.device),
            use_cache=False,
        ).last_hidden_state[0]  # [N, hidden]
        nodes = torch.from_numpy(tree.nodes)
        states, where = nodes.unique(return_inverse=True)  # [S], [B, T+1] row of `logits` for each prefix
        where = where.to(self.device)
        logits = self._head(hidden[states.to(self.device)]).float()  # [S, V]
        if masked:
            logits = self._mask_early_stop(logits, where, batch.too_short.to(self.device))
        choices = logits if self._allowed is None or not masked else logits[:, self._allowed]
        normaliser = choices.logsumexp(-1)  # [S]

        before = where[:, :-1]
        log_pf = logits[before, batch.token_ids.to(self.device)] - normaliser[before]
        log_pterm = logits[where, self.spec.stop_token_id] - normaliser[where]
        return PrefixLogProbs(
            log_pf=torch.where(batch.is_action.to(self.device), log_pf, 0.0),
            log_pterm=torch.where(batch.may_stop.to(self.device), log_pterm, 0.0),
        )

    def _mask_early_stop(self, logits: Tensor, where: Tensor, too_short: Tensor) -> Tensor:
        """Set the stop logit to -inf at prefixes [B, T+1] that are shorter than `min_actions`. logits [S, V]."""
        if not bool(too_short.any()):
            return logits
        mask = torch.zeros_like(logits, dtype=torch.bool)
        mask[where[too_short], self.spec.stop_token_id] = True
        return logits.masked_fill(mask, -torch.inf)
