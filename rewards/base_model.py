"""The frozen base model: log p of responses and of stopping at every prefix, one pass over the distinct prefixes.

Shapes   B responses, T tokens of the longest, N tree nodes, S states, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from buffer.prefix_tree import build_prefix_tree
from buffer.types import IntArray, PolicySpec
from rewards.task import BaseLogProbs


class BaseModel:
    """The weights before any adapter, without gradient: a fixed batch scores the same at any time of a run."""

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        """Load `spec.base_model` in `spec.dtype`."""
        self._device = device
        self._stop = spec.stop_token_id
        model = AutoModelForCausalLM.from_pretrained(
            spec.base_model, dtype=getattr(torch, spec.dtype), attn_implementation="sdpa", local_files_only=True
        )
        model.to(device).eval().requires_grad_(False)
        self._trunk = model.base_model
        self._head = model.get_output_embeddings()

    @torch.inference_mode()
    def log_probs(self, prompts: Sequence[IntArray], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """Score B responses behind their prompts; fp32 from the logits on."""
        tree = build_prefix_tree(prompts, responses)
        hidden = self._trunk(
            input_ids=torch.from_numpy(tree.token_ids)[None].to(self._device),
            position_ids=torch.from_numpy(tree.positions)[None].to(self._device),
            attention_mask=torch.from_numpy(tree.sees())[None, None].to(self._device),
            use_cache=False,
        ).last_hidden_state[0]  # [N, hidden]
        states, where = torch.from_numpy(tree.nodes).unique(return_inverse=True)  # [S], [B, T+1]
        log_p = self._head(hidden[states.to(self._device)]).float().log_softmax(-1).cpu()  # [S, V]
        scores = []
        for row, response in zip(where, responses, strict=True):
            n = len(response)
            taken = log_p[row[:n], torch.from_numpy(response).long()]
            scores.append(BaseLogProbs(tokens=taken.numpy(), stop=log_p[row[: n + 1], self._stop].numpy()))
        return scores
