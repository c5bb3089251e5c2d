"""Diversity of the samples of one prompt: in meaning (embeddings) and in tokens (distinct n-grams)."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def diversity(embeddings: NDArray[np.floating[Any]]) -> float:
    """1 − mean cosine over distinct pairs of rows of [K, D]: 0 for equal texts, 1 for unrelated texts, NaN for K < 2.

    The metric of Hu et al. (arXiv 2310.04363, section 4.1). They embed with all-mpnet-base-v2; values from different
    encoders are not comparable. A row of zeros has cosine 0 with every other row.
    """
    k = len(embeddings)
    if k < 2:
        return math.nan
    rows = np.asarray(embeddings, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    total = rows.sum(0)
    # Σ over all pairs minus the K pairs of a row with itself: O(K · D), where a table of pairs takes O(K² · D)
    return 1.0 - float(total @ total - (rows * rows).sum()) / (k * (k - 1))


def distinct_n(token_lists: Sequence[Sequence[Hashable]], n: int) -> float:
    """Number of different n-grams over the number of n-grams, all texts pooled: 0..1, NaN if there are no n-grams.

    After Li et al. (arXiv 1510.03055), who divide by the number of tokens. The value falls with the number and the
    length of texts, so compare equal numbers of texts.
    """
    if n < 1:
        raise ValueError(f"n = {n} must be at least 1")
    grams = [tuple(tokens[i : i + n]) for tokens in token_lists for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan
