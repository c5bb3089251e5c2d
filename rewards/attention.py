"""Attention on a packed pass: each token sees its own path only, and only these pairs are multiplied.

Segments of a kind (contexts, responses, copies of targets) are rows of a batch: the queries of a segment against the
keys of its path, gathered. Gathering a path for every copy moves memory, but little beside the products of a layer, and
lets one kernel do all copies. Products of a response's copies with its keys, ungathered, took 1.5 to 1.8 times as long.

Shapes   N tokens, H and K query and key heads, D head size; others as in packing.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from buffer.errors import ConfigError
from lm.packing import Packed, Segments

PACKED_ATTENTION = "tributary_packed"
"""The name that a model is loaded with."""
NOT_KNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments by which models change what attention computes, and which this one does not heed."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Segments of one kind, on the model's device."""

    queries: Tensor
    """[G · Q]"""
    keys: Tensor
    """[G · L]"""
    mask: Tensor
    """[G, 1, Q, L] 0 where a query sees a key, -inf elsewhere"""

    @classmethod
    def of(cls, segments: Segments, device: torch.device, dtype: torch.dtype) -> "_Part":
        queries, keys, depths = (
            torch.from_numpy(x).to(device) for x in (segments.queries, segments.keys, segments.depths)
        )
        unseen = torch.arange(keys.shape[1], device=device) > depths[..., None]
        mask = torch.zeros(unseen.shape, dtype=dtype, device=device).masked_fill_(unseen, -torch.inf)
        return cls(queries.flatten(), keys.flatten(), mask[:, None])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [N, H, D], key and value [N, K, D] -> [G · Q, H, D]."""
        rows, _, width, longest = self.mask.shape
        queries = query.index_select(0, self.queries).unflatten(0, (rows, width)).transpose(1, 2)
        keys, values = (
            x.index_select(0, self.keys).unflatten(0, (rows, longest)).transpose(1, 2) for x in (key, value)
        )
        grouped = query.device.type == "cpu"
        if not grouped:  # a GPU's kernels take a mask, or fewer key heads, not both
            keys, values = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (keys, values))
        output = scaled_dot_product_attention(queries, keys, values, self.mask, scale=scale, enable_gqa=grouped)
        return output.transpose(1, 2).flatten(0, 1)


class Attention:
    """Who sees whom in one pass."""

    def __init__(self, packed: Packed, device: torch.device, dtype: torch.dtype) -> None:
        """`dtype` is that of queries and keys."""
        self.uses = 0
        """Layers that have read it."""
        self._parts = [_Part.of(segments, device, dtype) for segments in packed.segments]
        found = sum(segments.queries.size for segments in packed.segments)
        in_order = np.array_equal(packed.places, np.arange(found))
        self._places = None if in_order else torch.from_numpy(packed.places).to(device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [N, H, D], key and value [N, K, D] -> [N, H, D]."""
        self.uses += 1
        found = torch.cat([part.attend(query, key, value, scale) for part in self._parts])
        return found if self._places is None else found.index_select(0, self._places)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Attention | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D].

    Without `packed` it is plain scaled dot product attention. ConfigError where the layer asks for more than that.
    """
    if asked := [f"{name} = {kwargs[name]}"[:80] for name in NOT_KNOWN if kwargs.get(name) is not None]:
        raise ConfigError(
            f"{type(module).__name__} asks for {asked[0]}: the frozen model is scored with full attention only. "
            "Choose a base model without it."
        )
    if packed is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed(query, key, value, scale)[None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
