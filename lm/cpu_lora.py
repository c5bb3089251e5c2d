"""vLLM 0.32 on CPUs: one LoRA matrix product for each adapter in the batch.

vLLM's CPU path gathers a copy of A and B for *every token* and multiplies them one by one; with rank 16 on
SmolLM2-135M this costs two thirds of the speed (docs/log.md). This module multiplies all rows at once, as any linear
layer does. Rows without an adapter have index -1. The stock code lets -1 select the *last* slot's weights; this module
does not change such rows.

CPU only, applied by lm/cpu_patches.py before the engine starts. tests/system/test_engine.py compares it with the stock
formulas.
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
    for slot, rows in _adapters(indices):
        a = _slot(weights, slot, output.dtype)
        _write(scaling * (inputs @ a.t()), output[:, : a.shape[0]], rows)


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
    for slot, rows in _adapters(indices):
        b = _slot(weights, slot, output.dtype)[:size]
        if add_inputs:
            part.addmm_(inputs if rows is None else torch.where(rows, inputs, 0.0), b.t())
        else:
            _write(inputs @ b.t(), part, rows)


def _adapters(indices: Tensor) -> Iterator[tuple[int, Tensor | None]]:
    """(slot, mask [t, 1] of its rows) for each adapter among `indices` [t]; the mask is None where all rows are its.

    With several adapters, each product is computed for all rows and masked: at these ranks that takes two thirds of the
    time of gathering an adapter's rows and scattering the product.
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


def _write(product: Tensor, output: Tensor, rows: Tensor | None) -> None:
    """Write `product` [t, columns] into the `rows` [t, 1] of `output` (None: all); other rows are unchanged."""
    output.copy_(product if rows is None else torch.where(rows, product, output))


def _slot(weights: Tensor, slot: int, dtype: torch.dtype) -> Tensor:
    """One adapter's matrix [out, in]; some layers stack it as [slots, 1, out, in]."""
    matrix = weights[slot]
    return (matrix[0] if matrix.dim() == 3 else matrix).to(dtype)
