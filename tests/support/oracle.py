"""The maths again, slowly, in the paper's letters: the reference for the fast code. Loops on purpose.

Z        a string over the symbols 0..V-1, of at most N actions; every string is a leaf of the tree of prefixes
R[Z]     log R(Z ⊤);  S(z) = Σ R over all strings that begin with z
q        the exact posterior policy: q(⊤ | z) = R(z ⊤) / S(z),  q(v | z) = S(z v) / S(z)
"""

import itertools
import math
from collections.abc import Mapping

String = tuple[int, ...]


def all_strings(V: int, N: int) -> list[String]:
    """Every string of at most N symbols out of V, the empty one first."""
    return [z for n in range(N + 1) for z in itertools.product(range(V), repeat=n)]


def exact_policy(
    R: Mapping[String, float], V: int, N: int
) -> tuple[dict[String, float], dict[String, list[float]], float]:
    """(log q(⊤|z), log q(v|z) for each v, log Z) of the policy whose samples are exactly R / Σ R."""
    S: dict[String, float] = {}
    for z in sorted(R, key=len, reverse=True):
        children = [S[(*z, v)] for v in range(V)] if len(z) < N else []
        S[z] = log_sum([R[z], *children])
    stop = {z: R[z] - S[z] for z in R}
    step = {z: [S[(*z, v)] - S[z] for v in range(V)] for z in R if len(z) < N}
    return stop, step, S[()]


def subtb_double_sum(
    log_pf: list[float], log_pterm: list[float], log_reward: list[float], lam: float
) -> tuple[float, float]:
    """(Σ_{0≤i<j≤n} λ^(j−i−1) term², Σ λ^(j−i−1)) of one trajectory, as equation 3 of arXiv 2310.04363 writes the term:

    log [ R(z_1:i ⊤) · Π_{k=i+1..j} q(z_k | z_1:k−1) · q(⊤ | z_1:j) ] − log [ R(z_1:j ⊤) · q(⊤ | z_1:i) ]
    """
    n = len(log_pf)
    total = weights = 0.0
    for i in range(n + 1):
        for j in range(i + 1, n + 1):
            product = 0.0
            for k in range(i + 1, j + 1):
                product += log_pf[k - 1]
            term = log_reward[i] + product + log_pterm[j] - log_reward[j] - log_pterm[i]
            weight = lam ** (j - i - 1)
            total += weight * term**2
            weights += weight
    return total, weights


def total_variation(p: Mapping[String, float], q: Mapping[String, float]) -> float:
    """½ Σ |p − q| over the union of the supports."""
    return 0.5 * sum(abs(p.get(z, 0.0) - q.get(z, 0.0)) for z in {*p, *q})


def log_sum(values: list[float]) -> float:
    """log Σ exp."""
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))
