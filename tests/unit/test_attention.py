"""Attention by blocks against the dense mask, on random trees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from lm import attention
from lm.attention import tree_attention, tree_blocks
from lm.prefix_tree import PrefixTree, build_prefix_tree

CPU = torch.device("cpu")
HEADS, GROUPS, SIZE = 4, 2, 8


def random_tree(seed: int, rows: int, prompts: int, width: int) -> PrefixTree:
    rng = np.random.default_rng(seed)
    heads = [rng.integers(3, size=rng.integers(1, 9)).astype(np.int32) for _ in range(prompts)]
    return build_prefix_tree(
        [heads[rng.integers(prompts)] for _ in range(rows)],
        [rng.integers(3, size=rng.integers(width + 1)).astype(np.int32) for _ in range(rows)],
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    prompts=st.integers(1, 3),
    block=st.sampled_from([1, 3, 16, 128]),
    kept=st.sampled_from([0, 10**9]),
)
def test_outputs_and_gradients_equal_those_of_the_dense_mask(
    seed: int, rows: int, prompts: int, block: int, kept: int
) -> None:
    tree = random_tree(seed, rows, prompts, width=10)
    n, generator = len(tree.parents), torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(1, heads, n, SIZE, generator=generator).requires_grad_(True) for heads in (HEADS, GROUPS, GROUPS)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_SIZES", (block,))
        patch.setattr(attention, "KEY_COST", -(10**9))
        patch.setattr(attention, "KEPT_COPIES", kept)
        blocks = tree_blocks(tree.parents, CPU)
    assert blocks is not None and blocks.keep == (kept > 0)
    ours, _ = tree_attention(nn.Identity(), query, key, value, None, tree_blocks=blocks, scaling=0.3)
    wide = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (key, value))
    dense = scaled_dot_product_attention(query, *wide, attn_mask=torch.from_numpy(tree.sees()), scale=0.3).transpose(
        1, 2
    )
    assert torch.allclose(ours, dense, atol=1e-5)
    weights = torch.randn(dense.shape, generator=generator)
    for mine, plain in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((dense * weights).sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(mine, plain, atol=1e-4)


def test_blocks_are_used_where_they_save_pairs_and_not_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(100, size=50).astype(np.int32)

    def blocks(rows: int, width: int) -> attention.TreeBlocks | None:
        strings = [rng.integers(100, size=width).astype(np.int32) for _ in range(rows)]
        return tree_blocks(build_prefix_tree([prompt] * rows, strings).parents, CPU)

    assert blocks(4, 3) is None, "one block sees everything"
    many = blocks(64, 40)
    assert many is not None
    n = 50 + 64 * 40
    assert many.mask.numel() < 0.15 * n * n, "cost follows the longest path, not the batch"
