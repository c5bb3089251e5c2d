"""Planted samplers: wrong in a known way, over a universe of strings whose target is known exactly.

Shapes   N strings of the universe.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.judging.certificate import Array, ExactDraws, Weighed, certificate_figures
from rewards.judging.coverage import Evidence, coverage
from rewards.judging.verdict import CLOSE, SAMPLES, Verdict, verdict_with_exact_draws, verdict_without_exact_draws

NEVER = -60.0
"""log q, relative to the target, of what a sampler never draws, nats: a network's softmax is never 0."""


@dataclass(frozen=True)
class Universe:
    """All strings that there are."""

    log_p: Array
    """[N] normalised target, nats."""
    log_base: Array
    """[N] normalised base model, nats."""
    log_stop: Sequence[Array]
    """[N] of [T+1]: the right sampler's log-probability of stopping at each prefix that it may stop at, nats."""
    mode: Array
    """[N] bool: the strings of one mode."""
    listed: bool
    """The task lists the strings. Otherwise exact draws are drawn."""


def toy(listed: bool = True, spread: float = 1.5) -> Universe:
    """40 strings of at most three of three letters, with random rewards; the base model is another random sampler."""
    rng = np.random.default_rng(1)
    strings = [s for n in range(4) for s in itertools.product(range(3), repeat=n)]
    log_p, log_base = rng.normal(scale=spread, size=40), rng.normal(scale=3.0, size=40)
    log_p -= np.logaddexp.reduce(log_p)
    mass = {
        s: float(np.logaddexp.reduce([log_p[k] for k, t in enumerate(strings) if t[: len(s)] == s])) for s in strings
    }
    log_stop = [
        np.array([log_p[strings.index(s[:n])] - mass[s[:n]] for n in range(min(len(s), 2) + 1)]) for s in strings
    ]
    log_stop = [x if len(s) < 3 else np.append(x, 0.0) for x, s in zip(log_stop, strings, strict=True)]
    mode = np.array([s[:1] == (0,) for s in strings])
    return Universe(log_p, log_base - np.logaddexp.reduce(log_base), log_stop, mode, listed)


def planted(universe: Universe, one_version_old: Array | None = None) -> dict[str, Array]:
    """Name -> log q [N], normalised; `one_version_old` [N] is that of a sampler in training, one version late."""
    log_p, rng = universe.log_p, np.random.default_rng(0)
    half = rng.permutation(len(log_p))[: len(log_p) // 2]
    dropped = log_p.copy()
    dropped[half] += NEVER
    order = rng.permutation(len(log_p))
    heavy = order[: 1 + int(np.searchsorted(np.exp(log_p[order]).cumsum(), 0.5))]
    half_of_mass = log_p.copy()
    half_of_mass[heavy] += NEVER
    samplers = {
        "right": log_p,
        "half of the mass dropped": half_of_mass,
        "half the strings dropped": dropped,
        "one mode dropped": log_p + NEVER * universe.mode,
        "one mode doubled": log_p + np.log(2.0) * universe.mode,
        "tempered by 0.9": 0.9 * log_p,
        "tempered by 1.1": 1.1 * log_p,
        "tempered by 0.5": 0.5 * log_p,
        "tempered by 2": 2.0 * log_p,
        "stops 0.2 too often": log_p + np.array([_more_stops(log_stop) for log_stop in universe.log_stop]),
        "base model": universe.log_base,
    }
    if one_version_old is not None:
        samplers["one version old"] = one_version_old
    return {name: log_q - np.logaddexp.reduce(log_q) for name, log_q in samplers.items()}


def true_gap(log_p: Array, log_q: Array) -> float:
    """KL(q ‖ p) + KL(p ‖ q), nats."""
    return float(((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q)).sum())


def total_variation(log_p: Array, log_q: Array) -> float:
    """½ Σ |p - q|"""
    return float(np.abs(np.exp(log_p) - np.exp(log_q)).sum() / 2)


def judge(
    universe: Universe, log_q: Array, seed: int, draws: int, exact_draws: int, foreign: int
) -> tuple[Verdict, float]:
    """The verdict on `draws` of a sampler, and the lower end of the gap's interval.

    `exact_draws` are drawn of the target where it is not listed; `foreign` strings are of the base model.
    """
    rng = np.random.default_rng(seed)
    log_p, n = universe.log_p, len(log_q)
    drawn = rng.choice(n, draws, p=np.exp(log_q))
    if universe.listed:
        exact = ExactDraws(Weighed(log_p, log_q), np.exp(log_p), listed=True)
    else:
        of_p = rng.choice(n, exact_draws, p=np.exp(log_p))
        exact = ExactDraws(Weighed(log_p[of_p], log_q[of_p]), np.full(exact_draws, 1.0 / exact_draws))
    figures = certificate_figures([(Weighed(log_p[drawn], log_q[drawn]), exact)])
    contrary = [_coverage(universe, log_q, drawn, rng.choice(n, foreign, p=np.exp(universe.log_base)))]
    return verdict_with_exact_draws(figures, 0 if universe.listed else exact_draws, contrary), figures["gap"].low


def judge_without_exact(universe: Universe, log_q: Array, seed: int, draws: int, foreign: int) -> Verdict:
    """The verdict where the target offers no exact draws."""
    rng = np.random.default_rng(seed)
    n, u = len(log_q), universe.log_p - log_q
    drawn = rng.choice(n, draws, p=np.exp(log_q))
    at_least = float(np.logaddexp.reduce(u[drawn]) - np.log(draws) - u[drawn].mean())
    contrary = [_coverage(universe, log_q, drawn, rng.choice(n, foreign, p=np.exp(universe.log_base)))]
    return verdict_without_exact_draws(at_least, contrary)


def is_right(verdict: Verdict, gap: float) -> bool:
    """True if what a verdict claims of a sampler with this gap [nats] is true and worth something."""
    if verdict.kind == "samples":
        return gap <= SAMPLES
    if verdict.kind == "close":
        return gap <= CLOSE
    return verdict.kind in ("misses mass", "too flat", "too peaked", "differs") and gap > SAMPLES


def _coverage(universe: Universe, log_q: Array, drawn: Array, of_base: Array) -> Any:
    log_p = universe.log_p
    keys = np.unique(np.concatenate([drawn, of_base]))
    return coverage(
        Evidence(
            Weighed(log_p[drawn], log_q[drawn]),
            Weighed(log_p[keys], log_q[keys]),
            [str(k) for k in keys],
            log_p[of_base] - universe.log_base[of_base],
        )
    )


def _more_stops(log_stop: Array) -> float:
    """log of the factor on a string's probability if each probability s of stopping becomes s + 0.2 (1 - s), nats."""
    s = np.exp(log_stop)
    more = s + 0.2 * (1.0 - s)
    passed = np.log1p(-more[:-1]) - np.log1p(-s[:-1])
    return float(passed.sum() + np.log(more[-1]) - log_stop[-1]) if len(s) else 0.0
