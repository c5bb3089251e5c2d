"""Attention on a prefix tree: every node sees itself and its ancestors, and only these are multiplied.

A dense mask computes all N² pairs. But the nodes of a tree stand in order of their strings, so 128 neighbours have few
ancestors: the prompt, and their own strings' tokens. So queries are cut into blocks, the keys and values that a block
sees are gathered, and one call of scaled dot product attention does all blocks, with a mask for each. It is exact,
needs no kernel of our own, and costs N times the longest path instead of N². Where the gathered copies are many, they
are not kept but gathered again in the backward pass.

Shapes   N nodes, C blocks of Q queries, K keys that the widest block sees, H and G query and key heads, D head size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

TREE_ATTENTION = "tributary_tree"
"""The name that a model is loaded with."""
BLOCK_SIZES = (32, 64, 128)
"""Queries a block, to choose from."""
KEY_COST = 80
"""What gathering a key costs, in pairs of query and key: a fit to times on a CPU (docs/log.md)."""
KEPT_COPIES = 2
"""Gathered keys a node that are kept for the backward pass; where there are more, they are gathered again."""


@dataclass(slots=True)
class TreeBlocks:
    """Who sees whom, block by block."""

    keys: Tensor
    """[C · K] int64 node of each key; 0 as padding."""
    mask: Tensor
    """[C, 1, Q, K] bool: query sees key. A query of the padding sees the first key, so that no row is empty."""
    keep: bool
    """Whether the gathered copies are few enough to be kept for the backward pass."""
    uses: int = 0
    """Layers that have read it."""


def tree_blocks(parents: NDArray[np.int64], device: torch.device) -> TreeBlocks | None:
    """The blocks of a tree whose `parents` [N] come before their children; None where a dense mask is faster."""
    n = len(parents)
    cuts = [_cut(parents, size) for size in BLOCK_SIZES]
    cost, size, seen = min(cuts, key=lambda cut: cut[0])
    if cost >= n * n:
        return None
    width = max(len(nodes) for nodes in seen)
    keys = np.zeros((len(seen), width), dtype=np.int64)
    mask = np.zeros((len(seen), size, width), dtype=np.bool_)
    for block, nodes in enumerate(seen):
        keys[block, : len(nodes)] = nodes
        column = {node: k for k, node in enumerate(nodes)}
        begin = block * size
        for row, parent in enumerate(parents[begin : begin + size].tolist()):
            if parent >= begin:
                mask[block, row] = mask[block, parent - begin]
            else:
                mask[block, row, [column[node] for node in _path(parents, parent)]] = True
            mask[block, row, column[begin + row]] = True
        mask[block, n - begin :, 0] = True
    return TreeBlocks(
        keys=torch.from_numpy(keys).flatten().to(device),
        mask=torch.from_numpy(mask)[:, None].to(device),
        keep=keys.size <= KEPT_COPIES * n,
    )


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree_blocks: TreeBlocks | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: query [1, H, N, D], key and value [1, G, N, D] -> [1, N, H, D].

    Without blocks it is plain scaled dot product attention under `attention_mask`.
    """
    if tree_blocks is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return found
    tree_blocks.uses += 1
    arguments = (query[0], key[0], value[0], tree_blocks.keys, tree_blocks.mask, scaling)
    output: Tensor = _attend(*arguments) if tree_blocks.keep else checkpoint(_attend, *arguments, use_reentrant=False)
    return output.transpose(0, 1)[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """query [H, N, D], key and value [G, N, D] -> [H, N, D]."""
    (heads, n, size), (blocks, _, rows, width) = query.shape, mask.shape
    queries = pad(query, (0, 0, 0, blocks * rows - n)).view(heads, blocks, rows, size).transpose(0, 1)
    key, value = (
        x.index_select(1, keys).view(len(x), blocks, width, size).transpose(0, 1).repeat_interleave(heads // len(x), 1)
        for x in (key, value)
    )
    output = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)  # [C, H, Q, D]
    return output.transpose(0, 1).reshape(heads, blocks * rows, size)[:, :n]


def _cut(parents: NDArray[np.int64], size: int) -> tuple[int, int, list[list[int]]]:
    """(cost in pairs, size, the nodes that each block of `size` queries sees)."""
    n = len(parents)
    seen = [_seen_from(parents, begin, min(begin + size, n)) for begin in range(0, n, size)]
    width = max(len(nodes) for nodes in seen)
    return len(seen) * width * (size + KEY_COST), size, seen


def _seen_from(parents: NDArray[np.int64], begin: int, end: int) -> list[int]:
    """Nodes begin..end-1 and all their ancestors, in order."""
    seen = set(range(begin, end))
    for node in range(begin, end):
        parent = int(parents[node])
        while parent >= 0 and parent not in seen:
            seen.add(parent)
            parent = int(parents[parent])
    return sorted(seen)


def _path(parents: NDArray[np.int64], node: int) -> list[int]:
    """`node` and its ancestors; nothing for -1."""
    path = []
    while node >= 0:
        path.append(node)
        node = int(parents[node])
    return path


AttentionInterface.register(TREE_ATTENTION, tree_attention)
