"""Attention on packed prefixes: every token sees itself and its ancestors, and only these pairs are multiplied.

A dense mask computes all N² pairs. But the tokens of a pass stand in order of their strings, so 128 neighbours have few
ancestors: the prompt, and their own strings' tokens. So queries are cut into blocks, the keys and values that a block
sees are gathered, and one call of scaled dot product attention does all blocks, with a mask for each. It is exact,
needs no kernel of our own, and costs N times the longest path instead of N². Where the gathered copies are many, they
are not kept but gathered again in the backward pass. Where a dense mask is cheaper, one block of all tokens is used.

Layers with a sliding window or a soft cap (Gemma 2 and 3, Mistral, Phi-3) are computed as they ask: a window narrows
the mask by the distance of positions, a cap is applied to the scores. What a layer may ask beyond that is refused.

Shapes   N tokens, C blocks of Q queries, K keys that the widest block sees, H and G query and key heads, D head size.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from buffer.errors import ConfigError

PACKED_ATTENTION = "tributary_packed"
"""The name that a model is loaded with."""
UNSUPPORTED = ("s_aux", "position_bias", "alibi")
"""Arguments by which a layer changes what attention computes, and which this one cannot compute."""
BLOCK_SIZES = (32, 64, 128)
"""Queries per block, to choose from."""
KEY_COST = 80
"""Cost of gathering a key, in pairs of query and key: a fit to times on a CPU (docs/log.md)."""
KEPT_COPIES = 2
"""Gathered keys per token that are kept for the backward pass; where there are more, they are gathered again."""

COPIES_AT_ONCE = 8
"""Gathered keys per token that are in memory at the same time; blocks that see more are computed in several calls."""

Indices = NDArray[np.int64]


class PackedAttention:
    """The blocks of one pass, and attention over them."""

    def __init__(self, parents: Indices, positions: Indices, device: torch.device) -> None:
        """`parents` [N]: the token before each one, -1 for the first of a string, and always earlier in the pass;
        `positions` [N]: places in their own strings, 0 for the first."""
        self.uses = 0
        """Layers that have read it."""
        self.windows: set[int] = set()
        """Sliding windows that these layers requested, tokens."""
        n = len(parents)
        cost, size, seen = min((_cut(parents, size) for size in BLOCK_SIZES), key=lambda cut: cut[0])
        if cost >= n * n or len(seen) == 1:
            size, seen = n, [list(range(n))]
        width = max(len(tokens) for tokens in seen)
        keys = np.zeros((len(seen), width), dtype=np.int64)
        mask = np.zeros((len(seen), size, width), dtype=np.bool_)
        for block, tokens in enumerate(seen):
            keys[block, : len(tokens)] = tokens
            _fill(mask[block], parents, block * size, tokens)
        self._keys = None if len(seen) == 1 else torch.from_numpy(keys).to(device)
        self._keep = keys.size <= KEPT_COPIES * n
        self._blocks_at_once = max(COPIES_AT_ONCE * n // width, 1)
        self._visible = torch.from_numpy(mask)[:, None].to(device)
        self._queries = np.minimum(np.arange(len(seen) * size).reshape(len(seen), size), n - 1)
        self._padding = len(seen) * size - n
        self._key_tokens, self._positions = keys, positions.astype(np.int32)
        self._longest = int(positions.max())
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        """query [N, H, D], key and value [N, G, D] -> [N, H, D].

        A token sees its last `window` ancestors, itself included, or all of them; scores s become cap · tanh(s / cap).
        """
        self.uses += 1
        if window is not None:
            self.windows.add(window)
        mask, at_once = self._mask(window, query.dtype), self._blocks_at_once
        attend = _attend if self._keep or not any(x.requires_grad for x in (query, key, value)) else _attend_again
        return torch.cat(
            [
                attend(
                    query[begin * mask.shape[2] : (begin + at_once) * mask.shape[2]],
                    *(key, value, None if self._keys is None else self._keys[begin : begin + at_once].flatten()),
                    *(mask[begin : begin + at_once], scale, cap),
                )
                for begin in range(0, len(mask), at_once)
            ]
        )

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[C, 1, Q, K] 0 where a query sees a key, -inf elsewhere."""
        narrow = 0 if window is None or window > self._longest else window
        if (narrow, dtype) not in self._masks:
            visible = self._visible & self._within(narrow) if narrow else self._visible
            blank = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            self._masks[narrow, dtype] = blank.masked_fill_(~visible, -torch.inf)
        return self._masks[narrow, dtype]

    def _within(self, window: int) -> Tensor:
        """[C, 1, Q, K] true where a key is fewer than `window` places before the query."""
        queries, keys = self._positions[self._queries], self._positions[self._key_tokens]
        within = queries[:, :, None] - keys[:, None, :] < window
        if self._padding:
            within.reshape(-1, within.shape[-1])[-self._padding :] = True  # what the padding sees is in every window
        return torch.from_numpy(within)[:, None].to(self._visible.device)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: PackedAttention | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as each layer calls it: query [1, H, N, D], key and value [1, G, N, D] -> [1, N, H, D].

    Without `packed` it is plain causal attention. ConfigError where the layer asks for more than either can compute.
    """
    unsupported = [f"{name} = {kwargs[name]}"[:80] for name in UNSUPPORTED if kwargs.get(name) is not None]
    if packed is None and (sliding_window is not None or softcap is not None):
        unsupported += ["a sliding window or a soft cap outside of a packed pass"]
    if packed is not None and attention_mask is not None:  # transformers makes none for an attention by this name
        unsupported += ["a mask that its layer made"]
    if unsupported:
        raise ConfigError(
            f"{type(module).__name__} asks for {unsupported[0]}, which attention on packed prefixes cannot compute. "
            "Choose another base model."
        )
    if packed is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed(query, key, value, scale, sliding_window, softcap)[None], None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, mask: Tensor, scale: float, cap: float | None
) -> Tensor:
    """query [N, H, D], key and value [N, G, D] -> [N, H, D]; `keys` [C · K] are gathered, None for all of them."""
    n, (blocks, _, rows, width) = len(query), mask.shape
    if missing := blocks * rows - n:
        query = pad(query, (0, 0, 0, 0, 0, missing))
    queries = query.unflatten(0, (blocks, rows)).transpose(1, 2)  # [C, H, Q, D]
    if keys is not None:
        key, value = key.index_select(0, keys), value.index_select(0, keys)
    gathered, values = (x.unflatten(0, (blocks, width)).transpose(1, 2) for x in (key, value))  # [C, G, K, D]
    grouped = query.device.type == "cpu" and cap is None
    if not grouped:  # a GPU's kernels take a mask, or fewer key heads, not both
        gathered, values = (x.repeat_interleave(queries.shape[1] // x.shape[1], 1) for x in (gathered, values))
    if cap is None:
        output = scaled_dot_product_attention(queries, gathered, values, mask, scale=scale, enable_gqa=grouped)
    else:
        scores = (queries @ gathered.transpose(2, 3) * (scale / cap)).tanh() * cap + mask
        output = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return output.transpose(1, 2).flatten(0, 1)[:n]


def _attend_again(*arguments: Any) -> Tensor:
    """`_attend`, computed a second time in the backward pass instead of keeping the gathered keys."""
    output: Tensor = checkpoint(_attend, *arguments, use_reentrant=False)
    return output


def _fill(mask: NDArray[np.bool_], parents: Indices, begin: int, tokens: list[int]) -> None:
    """Set `mask` [Q, K] for the block that begins at token `begin` and sees `tokens`: true where a query sees a key.

    A query of the padding sees the first key, so that no row is empty.
    """
    column = {token: k for k, token in enumerate(tokens)}
    for row, parent in enumerate(parents[begin : begin + len(mask)].tolist()):
        if parent >= begin:
            mask[row] = mask[parent - begin]
        else:
            mask[row, [column[token] for token in _path(parents, parent)]] = True
        mask[row, column[begin + row]] = True
    mask[len(parents) - begin :, 0] = True


def _cut(parents: Indices, size: int) -> tuple[int, int, list[list[int]]]:
    """(cost in pairs, size, the tokens that each block of `size` queries sees)."""
    n = len(parents)
    seen = [_seen_from(parents, begin, min(begin + size, n)) for begin in range(0, n, size)]
    width = max(len(tokens) for tokens in seen)
    return len(seen) * width * (size + KEY_COST), size, seen


def _seen_from(parents: Indices, begin: int, end: int) -> list[int]:
    """Tokens begin..end-1 and all their ancestors, in order."""
    seen = set(range(begin, end))
    for token in range(begin, end):
        parent = int(parents[token])
        while parent >= 0 and parent not in seen:
            seen.add(parent)
            parent = int(parents[parent])
    return sorted(seen)


def _path(parents: Indices, token: int) -> list[int]:
    """`token` and its ancestors; nothing for -1."""
    path = []
    while token >= 0:
        path.append(token)
        token = int(parents[token])
    return path


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
