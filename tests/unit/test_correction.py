"""Correcting draws of a wrong sampler: rejection, Metropolis-Hastings and resampling reach the target."""

import numpy as np
import pytest

from rewards.judging.correction import effective_share, metropolis, reject, resample

P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.25, 0.25, 0.25, 0.25])
U = np.log(7.0 * P) - np.log(Q)
N = 40_000


def drawn() -> np.ndarray:
    return np.random.default_rng(0).choice(4, N, p=Q)


def shares(strings: np.ndarray) -> np.ndarray:
    return np.bincount(strings, minlength=4) / len(strings)


def test_rejection_follows_the_target_at_the_rate_that_the_bound_allows() -> None:
    z = drawn()
    result = reject(U[z], float(U.max()), np.random.default_rng(1))
    np.testing.assert_allclose(shares(z[result.chosen]), P, atol=0.015)
    assert result.acceptance == pytest.approx(0.5, abs=0.01) and result.bound == pytest.approx(np.log(2.0), abs=0.02)


def test_metropolis_follows_the_target_from_every_proposal() -> None:
    z = drawn()
    result = metropolis(U[z], N // 4, np.random.default_rng(1))
    assert len(result.chosen) == N // 4 and result.chosen.max() < N and (np.diff(result.chosen) >= 0).all()
    np.testing.assert_allclose(shares(z[result.chosen]), P, atol=0.03)
    # of two independent draws of q: the mean of min(1, w' / w)
    expected = sum(P[i] * Q[j] * min(1.0, P[j] * Q[i] / (P[i] * Q[j])) for i in range(4) for j in range(4))
    assert result.acceptance == pytest.approx(expected, abs=0.02)


def test_resampling_follows_the_target_and_reports_the_effective_size() -> None:
    z = drawn()
    result = resample(U[z], N // 4, np.random.default_rng(1))
    np.testing.assert_allclose(shares(z[result.chosen]), P, atol=0.03)
    assert result.ess == pytest.approx(1.0 / (P**2 / Q).sum(), abs=0.01)


def test_a_perfect_sampler_loses_nothing() -> None:
    u = np.full(100, 3.0)
    rng = np.random.default_rng(0)
    assert reject(u, 3.0, rng).acceptance == 1.0 and metropolis(u, 100, rng).acceptance == 1.0
    assert metropolis(u, 25, rng).chosen.tolist() == list(range(3, 100, 4))
    assert effective_share(u) == 1.0
