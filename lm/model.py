"""A causal language model on packed prefixes: hidden states of a pass, and the layer that turns them into logits."""

from typing import Any

import torch
from torch import Tensor, nn

from buffer.errors import ConfigError
from lm.attention import PackedAttention
from lm.head import OutputLayer
from lm.prefix_tree import PackedTokens


class PackedModel:
    """A model loaded by lm/load.py; it may have a LoRA adapter in its layers, but not on its output layer."""

    def __init__(self, model: Any, name: str) -> None:
        """`model`: a transformers model with the attention of lm/attention.py; `name` is for errors.

        ConfigError where its logits cannot be read from its last hidden state.
        """
        self.model = model
        self.name = name
        self.output = _output_layer(model, name)
        self._trunk: nn.Module = model.base_model

    @property
    def device(self) -> torch.device:
        """The device of the output layer, where hidden states are returned."""
        return self.output.weight.device

    def hidden_states(self, tokens: PackedTokens) -> Tensor:
        """The last layer's output at every token of a pass, [N, H]. ConfigError where a layer ignores who sees whom."""
        attention = PackedAttention(tokens.parents, tokens.positions, self.device)
        hidden: Tensor = self._trunk(
            input_ids=torch.from_numpy(tokens.token_ids)[None].to(self.device),
            position_ids=torch.from_numpy(tokens.positions)[None].to(self.device),
            packed=attention,
            use_cache=False,
        ).last_hidden_state[0]
        layers = self.model.config.get_text_config().num_hidden_layers
        if attention.uses != layers:
            raise ConfigError(
                f"{self.name}: {attention.uses} of its {layers} layers use the attention of packed prefixes. All must, "
                "or prefixes would see each other: choose a base model with softmax attention in every layer."
            )
        return hidden


def _output_layer(model: Any, name: str) -> OutputLayer:
    """The output layer with what the configuration says of scale and cap; lm/load.py proves it."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    if type(head) is not nn.Linear:
        raise ConfigError(
            f"{name}: its output layer is a {type(head).__name__}, not a plain linear layer. Take the output "
            "layer out of model.lora_targets, or choose another base model."
        )
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    bias = None if head.bias is None else head.bias.detach()
    return OutputLayer(head.weight.detach(), bias, scale, getattr(config, "final_logit_softcapping", None))
