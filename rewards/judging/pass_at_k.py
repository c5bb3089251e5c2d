"""pass@k: the probability that one of k samples is correct."""

import math


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of k of the n samples is correct (Chen et al., arXiv 2107.03374, eq. 1); NaN for n < k."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k) if n >= k else math.nan
