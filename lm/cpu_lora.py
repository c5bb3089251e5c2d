"""vLLM 0.32 on CPUs: LoRA by one matrix product for each adapter in the batch.

vLLM's CPU path gathers a copy of A and B for *every token* and multiplies them one by one; with rank 16 on
SmolLM2-135M this costs two thirds of the speed (docs/log.md). Here all rows are multiplied at once, as for any linear
layer. Rows without an adapter carry index -1. The stock code lets -1 pick the *last* slot's weights; here such rows are
left alone.

CPU only, applied by lm/cpu_patches.py before the engine starts. tests/system/test_engine.py holds it to the
stock path.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def apply() -> None:
    """Replace vLLM's three row-wise products, in the module that defines them and where they are used."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for module in (lora_ops, punica_cpu):
        module.bgmv_shrink = bgmv_shrink
        module.bgmv_expand = bgmv_expand
        module.bgmv_expand_slice = bgmv_expand_slice


def bgmv_shrink(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, scaling: float = 1.0) -> None:
    """output[t] = scaling * A[indices[t]] inputs[t].

    inputs [t, in], weights [slots, (1,) rank, in], output [t, rank].
    """
    inputs = inputs.to(output.dtype)
    for slot, own in _adapters(indices):
        a = _slot(weights, slot, output.dtype)
        _put(scaling * (inputs @ a.t()), output[:, : a.shape[0]], own)


def bgmv_expand(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, add_inputs: bool = True) -> None:
    """output[t] += B[indices[t]] inputs[t].

    inputs [t, rank], weights [slots, (1,) out, rank], output [t, out or more].
    """
    bgmv_expand_slice(inputs, weights, output, indices, 0, min(weights.shape[-2], output.shape[1]), add_inputs)


def bgmv_expand_slice(
    inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, offset: int, size: int, add_inputs: bool = True
) -> None:
    """Like `bgmv_expand`, into the columns offset .. offset+size of output."""
    inputs, part = inputs.to(output.dtype), output[:, offset : offset + size]
    for slot, own in _adapters(indices):
        b = _slot(weights, slot, output.dtype)[:size]
        if add_inputs:
            part.addmm_(inputs if own is None else torch.where(own, inputs, 0.0), b.t())
        else:
            _put(inputs @ b.t(), part, own)


def _adapters(indices: Tensor) -> Iterator[tuple[int, Tensor | None]]:
    """(slot, which rows are its own [t, 1]) for each adapter among `indices` [t]; None where all rows are.

    With several, each is applied to all rows and kept for its own: at these ranks that takes two thirds of the time of
    gathering its rows and scattering the product.
    """
    if len(indices) == 0:
        return
    first = int(indices[0])
    if bool((indices == first).all()):
        if first >= 0:
            yield first, None
        return
    for slot in indices.unique().tolist():
        if slot >= 0:
            yield slot, (indices == slot)[:, None]


def _put(product: Tensor, output: Tensor, own: Tensor | None) -> None:
    """Rows of `product` into those of `output` [t, columns] that are `own` [t, 1]; the others stay."""
    output.copy_(product if own is None else torch.where(own, product, output))


def _slot(weights: Tensor, slot: int, dtype: torch.dtype) -> Tensor:
    """One adapter's matrix [out, in]; some layers stack it as [slots, 1, out, in]."""
    matrix = weights[slot]
    return (matrix[0] if matrix.dim() == 3 else matrix).to(dtype)
