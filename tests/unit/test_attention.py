"""Attention by blocks against the dense mask, on random trees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from buffer.errors import ConfigError
from lm import attention
from lm.attention import PackedAttention, packed_attention
from lm.prefix_tree import PrefixTree, build_prefix_tree
from tests.support.trees import sees

CPU = torch.device("cpu")
HEADS, GROUPS, SIZE = 4, 2, 8


def random_tree(seed: int, rows: int, prompts: int, width: int) -> PrefixTree:
    rng = np.random.default_rng(seed)
    heads = [rng.integers(3, size=rng.integers(1, 9)).astype(np.int32) for _ in range(prompts)]
    return build_prefix_tree(
        [heads[rng.integers(prompts)] for _ in range(rows)],
        [rng.integers(3, size=rng.integers(width + 1)).astype(np.int32) for _ in range(rows)],
    )


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: np.ndarray, cap: float | None
) -> torch.Tensor:
    """[1, N, H, D] plain attention under a dense mask."""
    key, value = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (key, value))
    scores = 0.3 * query @ key.transpose(2, 3)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return (scores.masked_fill(~torch.from_numpy(visible), -torch.inf).softmax(-1) @ value).transpose(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    prompts=st.integers(1, 3),
    block=st.sampled_from([1, 3, 16, 128]),
    kept=st.sampled_from([0, 10**9]),
    at_once=st.sampled_from([0, 1, 8]),
    window=st.sampled_from([None, 1, 2, 5, 100]),
    cap=st.sampled_from([None, 0.5]),
)
def test_outputs_and_gradients_equal_those_of_the_dense_mask(
    seed: int, rows: int, prompts: int, block: int, kept: int, at_once: int, window: int | None, cap: float | None
) -> None:
    tokens = random_tree(seed, rows, prompts, width=10).tokens
    n, generator = len(tokens), torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(1, heads, n, SIZE, generator=generator).requires_grad_(True) for heads in (HEADS, GROUPS, GROUPS)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_SIZES", (block,))
        patch.setattr(attention, "KEY_COST", -(10**9))
        patch.setattr(attention, "COPIES_AT_ONCE", at_once)
        patch.setattr(attention, "KEPT_COPIES", kept)
        packed = PackedAttention(tokens.parents, tokens.positions, CPU)
    ours, _ = packed_attention(
        nn.Identity(), query, key, value, None, packed, scaling=0.3, sliding_window=window, softcap=cap
    )
    expected = dense(query, key, value, sees(tokens, window), cap)
    assert torch.allclose(ours, expected, atol=1e-5)
    weights = torch.randn(expected.shape, generator=generator)
    for mine, plain in zip(
        torch.autograd.grad((ours * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(mine, plain, atol=1e-4)


def test_blocks_are_used_where_they_save_pairs_and_not_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(100, size=50).astype(np.int32)

    def pairs(rows: int, width: int) -> float:
        """Pairs of query and key that are multiplied, as a share of all."""
        strings = [rng.integers(100, size=width).astype(np.int32) for _ in range(rows)]
        tokens = build_prefix_tree([prompt] * rows, strings).tokens
        return PackedAttention(tokens.parents, tokens.positions, CPU)._visible.numel() / len(tokens) ** 2

    assert pairs(4, 3) == 1.0, "one block sees everything"
    assert pairs(64, 40) < 0.15, "cost follows the longest path, not the batch"


def test_what_attention_cannot_compute_is_refused() -> None:
    x = torch.zeros(1, HEADS, 3, SIZE)
    for arguments in ({"s_aux": torch.zeros(HEADS)}, {"position_bias": x}, {"sliding_window": 2}, {"softcap": 1.0}):
        with pytest.raises(ConfigError, match="which attention on packed prefixes cannot compute"):
            packed_attention(nn.Identity(), x, x, x, None, **arguments)
    packed = PackedAttention(np.array([-1, 0, 1]), np.arange(3), torch.device("cpu"))
    with pytest.raises(ConfigError, match="a mask that its layer made"):
        packed_attention(nn.Identity(), x, x, x, torch.zeros(1, 1, 3, 3), packed)
