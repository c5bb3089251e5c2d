"""The output layer, read without ever holding all logits.

A pass needs two kinds of numbers of a state: the logit of a few tokens, and the normaliser over the vocabulary. The
first are dot products. The second is one number a state, so its gradient with respect to the hidden state h is one
vector,

    d log Σ_v exp f(h · w_v + b_v) / dh  =  Σ_v softmax(v) f'(v) w_v,      f(x) = scale · x, or its soft cap,

which is computed in the same visit of a chunk of logits and kept in their place: [S, H] instead of [S, V], and no more
matrix products than a plain backward pass makes.

Shapes   S states, H hidden size, V vocabulary (or the allowed part of it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from buffer.types import PolicySpec

CPU_CHUNK_BYTES = 2**25
"""Bytes of fp32 logits held at a time. Two cores, V = 49,152: 32 MiB is best, 8 MiB 30 % slower, 256 MiB 5 %."""
GPU_CHUNK_BYTES = 2**29
"""Each chunk reads the whole weight twice: at V = 152,064 and 32 MiB that would be every 55 states. Not measured."""


def chunk_bytes(on_gpu: bool) -> int:
    """Bytes of fp32 logits held at a time."""
    return GPU_CHUNK_BYTES if on_gpu else CPU_CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """Logits from hidden states: f(h · w + b). Nothing of it gets a gradient."""

    weight: Tensor
    """[V, H]"""
    bias: Tensor | None = None
    """[V]"""
    scale: float = 1.0
    """Factor of every logit (Granite, Cohere)."""
    cap: float | None = None
    """Soft cap: cap · tanh(logit / cap) (Gemma 2)."""
    left_out: Tensor | None = None
    """[F] tokens that no normaliser counts."""

    def rows(self, token_ids: Sequence[int]) -> "OutputLayer":
        """The layer of some tokens only, in their order."""
        index = list(token_ids)
        bias = None if self.bias is None else self.bias[index]
        return replace(self, weight=self.weight[index], bias=bias)

    def of_policy(self, spec: PolicySpec) -> tuple["OutputLayer", int]:
        """The layer of the tokens that the policy chooses among, and the column of its stop in it."""
        if spec.allowed_token_ids is not None:
            allowed = sorted({*spec.allowed_token_ids, spec.stop_token_id})
            return self.rows(allowed), allowed.index(spec.stop_token_id)
        forbidden = torch.tensor(spec.forbidden_token_ids, device=self.weight.device)
        return (replace(self, left_out=forbidden) if spec.forbidden_token_ids else self), spec.stop_token_id

    def token_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Logits of given tokens: hidden [..., H], token_ids [...] -> [...], fp32.

        As exact as the products that the normaliser sums: otherwise log q of a sharp state could be far above 0.
        """
        logits = (hidden.float() * self.weight[token_ids].float()).sum(-1)
        if self.bias is not None:
            logits = logits + self.bias[token_ids].float()
        return self._scaled(logits)

    def log_normaliser(self, hidden: Tensor, column: int = 0, blocked: Tensor | None = None) -> Tensor:
        """log Σ_v exp(logit v) of hidden [S, H]: fp32 [S]; token `column` is left out of it where `blocked` [S]."""
        result: Tensor = _LogNormaliser.apply(hidden, self, column, blocked)  # type: ignore[no-untyped-call]
        return result

    def _scaled(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap


def _product(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden [S, H] times weight [V, H]: [S, V], fp32. 16-bit factors are summed and kept in fp32, as in lm/vllm.py:
    logits of 16 to 32 rounded to bf16 would be off by 0.06."""
    if hidden.dtype == torch.float32:
        return hidden @ weight.T
    if hidden.is_cuda:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return hidden.float() @ weight.T.float()


class _LogNormaliser(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, layer: OutputLayer, column: int, blocked: Tensor | None) -> Tensor:
        expected = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        normaliser = torch.empty(len(hidden), device=hidden.device)
        chunk = max(1, chunk_bytes(hidden.device.type == "cuda") // (4 * len(layer.weight)))
        for begin in range(0, len(hidden), chunk):
            part = slice(begin, begin + chunk)
            logits = _product(hidden[part], layer.weight)
            if layer.bias is not None:
                logits += layer.bias
            logits = layer._scaled(logits)
            slope = None if layer.cap is None or expected is None else 1.0 - (logits / layer.cap).square()
            if layer.left_out is not None:
                logits[:, layer.left_out] = -torch.inf
            if blocked is not None:
                logits[blocked[part], column] = -torch.inf
            top = logits.amax(-1, keepdim=True)
            powers = logits.sub_(top).exp_()
            total = powers.sum(-1, keepdim=True)
            normaliser[part] = (top + total.log())[:, 0]
            if expected is not None:
                share = powers.div_(total)
                if slope is not None:
                    share = share.mul_(slope)
                expected[part] = (share.to(hidden.dtype) @ layer.weight).mul_(layer.scale)
        if expected is not None:
            ctx.save_for_backward(expected)
        return normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (expected,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradient[:, None] * expected).to(expected.dtype), None, None, None
