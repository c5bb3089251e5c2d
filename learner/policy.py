"""The policy q: a frozen base model with a LoRA adapter, evaluated on the prefix trees of a batch.

Shapes   B trajectories (b in one pass), T response tokens, N tree nodes, S states, H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from buffer.errors import AdapterError
from buffer.types import PolicySpec
from learner.batch import Batch, Part
from lm.load import keep_four_bits_differentiable, load_model
from lm.model import PackedModel


@dataclass(frozen=True, slots=True)
class PrefixLogProbs:
    """log q of what a trajectory did and of what it could have stopped at, nats, fp32."""

    log_pf: Tensor
    """[B, T] of the token taken; 0 at tool tokens and padding."""
    log_pterm: Tensor
    """[B, T+1] of the stop token; 0 where stopping is forced, not possible, or padding."""


class LoraPolicy:
    """Base weights never change; only LoRA's A and B have gradients. Dropout is off in acting, scoring and learning."""

    def __init__(self, spec: PolicySpec, device: torch.device, gradient_checkpointing: bool = False) -> None:
        """Load `spec.base_model` and put a fresh adapter (B = 0, so q is the base model) on it.

        `gradient_checkpointing` keeps one activation a layer and computes the rest again in the backward pass.
        """
        self.spec = spec
        self.device = device
        base = load_model(spec, device, quantized=True)
        lora = LoraConfig(
            r=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(spec.lora_targets),
            task_type="CAUSAL_LM",
        )
        targets = [name for name, _ in base.named_modules() if name.rpartition(".")[2] in spec.lora_targets]
        self.model = get_peft_model(base, lora).eval()
        self._require_adapters(targets)
        keep_four_bits_differentiable(self.model)
        self._packed = PackedModel(self.model.get_base_model(), spec.base_model)
        self._allowed, self._stop_column = self._packed.output.of_policy(spec)
        if gradient_checkpointing:
            self._checkpoint_layers()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """LoRA's A and B."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def log_probs(self, batch: Batch, masked: bool = True) -> PrefixLogProbs:
        """Log-probabilities of all rows. Gradients flow to the adapter unless the caller turned them off.

        `masked=False` leaves out the allowed-token and min-action masks: the plain softmax that an engine reports for
        given text.
        """
        log_pf = torch.zeros(batch.is_action.shape, device=self.device)
        log_pterm = torch.zeros(batch.may_stop.shape, device=self.device)
        for part in batch.parts:
            scored = self.log_probs_of(batch, part, masked)
            log_pf = log_pf.index_copy(0, part.rows.to(self.device), scored.log_pf)
            log_pterm = log_pterm.index_copy(0, part.rows.to(self.device), scored.log_pterm)
        return PrefixLogProbs(log_pf, log_pterm)

    def log_probs_of(self, batch: Batch, part: Part, masked: bool = True) -> PrefixLogProbs:
        """One pass over the distinct prefixes of some rows, [b, T] and [b, T+1]; logits only where one is read."""
        is_action = batch.is_action[part.rows].to(self.device)
        may_stop = batch.may_stop[part.rows].to(self.device)
        acts = torch.nn.functional.pad(is_action, (0, 1))  # [b, T+1] prefixes from which an action was taken
        read = acts | may_stop
        nodes = torch.from_numpy(part.tree.nodes).to(self.device)
        # a node can be a prefix of two strings of which only one may stop there: two states
        short = batch.too_short[part.rows].to(self.device) & masked
        states, places = (2 * nodes + short)[read].unique(return_inverse=True)  # [S] what is read, and who reads which
        place = torch.zeros_like(nodes)  # [b, T+1] index into `states`
        place[read] = places
        hidden, blocked = self._packed.hidden_states(part.tree.tokens)[states // 2], states % 2 == 1  # [S, H], [S]
        output = self._packed.output
        layer, column = (self._allowed, self._stop_column) if masked else (output, self.spec.stop_token_id)
        normaliser = layer.log_normaliser(hidden, column, blocked)  # [S]

        log_pf, log_pterm = (
            torch.zeros_like(acts[:, 1:], dtype=torch.float32),
            torch.zeros_like(acts, dtype=torch.float32),
        )
        acted, stopped = place[:, :-1][is_action], place[may_stop]
        taken = batch.token_ids[part.rows].to(self.device)[is_action]
        stop = torch.full_like(stopped, self.spec.stop_token_id)
        log_pf[is_action] = output.token_logits(hidden[acted], taken) - normaliser[acted]
        log_pterm[may_stop] = output.token_logits(hidden[stopped], stop) - normaliser[stopped]
        return PrefixLogProbs(log_pf, log_pterm)

    def _require_adapters(self, targets: Sequence[str]) -> None:
        """AdapterError unless each of the layers `targets` has an adapter."""
        adapted = {name for name, layer in self.model.get_base_model().named_modules() if hasattr(layer, "lora_A")}
        missing = [name for name in targets if name not in adapted]
        if missing:
            raise AdapterError(
                f"{len(missing)} of the {len(targets)} layers that model.lora_targets names have no adapter: "
                f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}. They would keep the base model's "
                "weights for the whole run. Install the version of peft that deploy/install pins."
            )

    def _checkpoint_layers(self) -> None:
        """Only the layers themselves are told that they train, which is what turns checkpointing on; what is inside
        them stays in eval mode, so that no dropout of the base model comes back."""
        self.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
