"""How different the samples of one prompt are: in meaning, and in words."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def diversity(embeddings: NDArray[np.floating[Any]]) -> float:
    """1 − the mean cosine of distinct pairs of rows of [K, D]; NaN for K < 2. 0: all the same, 1: unrelated.

    The figure of Hu et al. (arXiv 2310.04363, section 4.1); theirs are embeddings of all-mpnet-base-v2, and figures of
    different encoders don't compare. A row of zeros has cosine 0 with every other.
    """
    k = len(embeddings)
    if k < 2:
        return math.nan
    rows = np.asarray(embeddings, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    total = rows.sum(0)
    # Σ of all pairs, the K of a row with itself taken off: O(K · D) where a table of pairs is O(K² · D)
    return 1.0 - float(total @ total - (rows * rows).sum()) / (k * (k - 1))


def distinct_n(token_lists: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams as a share of all n-grams of the texts together, 0..1; NaN where there is none.

    After Li et al. (arXiv 1510.03055), who divide by the number of tokens. Falls with the number and the length of
    texts: compare equal numbers of them.
    """
    if n < 1:
        raise ValueError(f"n = {n} must be at least 1")
    grams = [tuple(tokens[i : i + n]) for tokens in token_lists for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan
