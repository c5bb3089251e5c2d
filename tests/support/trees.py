"""Who sees whom in a pass, token by token: the dense mask that lm/attention.py never makes."""

import numpy as np

from lm.prefix_tree import PackedTokens


def sees(tokens: PackedTokens, window: int | None = None) -> np.ndarray:
    """[N, N] sees[a, b]: token a attends to token b, itself or an ancestor, at most `window` - 1 places before it."""
    n = len(tokens)
    matrix = np.zeros((n, n), dtype=np.bool_)
    for token in range(n):
        ancestor = token
        while ancestor >= 0:
            matrix[token, ancestor] = window is None or tokens.positions[token] - tokens.positions[ancestor] < window
            ancestor = int(tokens.parents[ancestor])
    return matrix
