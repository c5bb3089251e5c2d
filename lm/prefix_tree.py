"""Strings as a prefix tree: every distinct prefix is one node, so that one pass of a model computes each once.

Each token attends to its ancestors only (lm/attention.py), at the position it has in its own string. Log-probabilities
equal those of padded rows; the work is that of the distinct prefixes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from buffer.types import IntArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """N tokens that a model is fed in one pass; a parent comes before its children."""

    token_ids: Indices
    """[N]"""
    positions: Indices
    """[N] place of a token in its string, prompt included."""
    parents: Indices
    """[N] the token before it; -1 for the first token of a string."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The distinct prefixes of B strings of at most T response tokens."""

    tokens: PackedTokens
    """[N] the token that leads into each node."""
    nodes: Indices
    """[B, T+1] node of prefix z_1:i of row b; its output predicts z_i+1. Past the end of a row, the row's last node."""


def build_prefix_tree(
    prompts: Sequence[IntArray], responses: Sequence[IntArray], width: int | None = None
) -> PrefixTree:
    """Merge B strings (prompt [P], response [T]) into one forest.

    `width` is the T of `nodes` where it should be more than that of the longest response.
    Prompts must not be empty: the first response token is predicted from the prompt's last token.
    """
    tokens: list[int] = []
    positions: list[int] = []
    parents: list[int] = []
    children: dict[tuple[int, int], int] = {}

    def descend(parent: int, token: int) -> int:
        """The child of `parent` by `token`, made if it is new; -1 is the root of the forest."""
        node = children.get((parent, token))
        if node is None:
            node = len(tokens)
            children[parent, token] = node
            tokens.append(token)
            parents.append(parent)
            positions.append(0 if parent < 0 else positions[parent] + 1)
        return node

    if width is None:
        width = max((len(response) for response in responses), default=0)
    nodes = np.zeros((len(responses), width + 1), dtype=np.int64)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if len(prompt) == 0:
            raise ValueError(f"prompt of row {row} has no token: the first action needs something to follow")
        node = -1
        for token in prompt.tolist():
            node = descend(node, token)
        nodes[row, 0] = node
        for i, token in enumerate(response.tolist(), start=1):
            node = descend(node, token)
            nodes[row, i] = node
        nodes[row, len(response) + 1 :] = node

    return PrefixTree(
        tokens=PackedTokens(
            token_ids=np.array(tokens, dtype=np.int64),
            positions=np.array(positions, dtype=np.int64),
            parents=np.array(parents, dtype=np.int64),
        ),
        nodes=nodes,
    )
