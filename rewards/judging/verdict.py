"""The verdict on a sampler, in words, with the numbers behind it.

It claims no more than the figures carry. Where exact draws exist it rests on the gap, KL(q ‖ p) + KL(p ‖ q), which
bounds the total variation: TV <= sqrt(gap) / 2, by Pinsker's inequality for both divergences. Where none exist it can
only contradict the sampler, or say that it does not know.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.judging.bootstrap import Interval
from rewards.judging.coverage import FEW, Coverage

SAMPLES = 0.1
"""Nats: with a gap of at most this, a total variation of at most 0.16, a sampler counts as right."""
CLOSE = 0.5
"""Nats: a gap of at most this is a total variation of at most 0.35."""
MANY = 0.05
"""A share of overrated draws from which on the sampler is called too flat."""

Kind = Literal[
    "wrong weights", "samples", "close", "misses mass", "too flat", "too peaked", "differs", "undecided", "not known"
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence on a sampler."""

    kind: Kind
    text: str


def verdict_with_exact_draws(figures: Mapping[str, Interval], draws: int, coverage: Sequence[Coverage]) -> Verdict:
    """From the figures of certificate.py, for `draws` exact draws in all (0: the target's strings are listed), and what
    other strings say."""
    gap = figures["gap"]
    number = f"gap {_nats(gap)}, total variation at most {total_variation_bound(gap.high):.2f}"
    if gap.high <= CLOSE:
        if contradiction := _contradiction(coverage):
            return contradiction
        unseen = f"; a mode below {3 / draws:.1%} of the target may hide from {draws:,} exact draws" if draws else ""
        if gap.high <= SAMPLES:
            return Verdict("samples", f"samples the posterior ({number}){unseen}")
        return Verdict("close", f"close to the posterior ({number}){unseen}")
    if gap.low <= SAMPLES:
        return Verdict("undecided", f"not decided by so few draws ({number}): draw more, with --samples")
    return _failure(figures, number, coverage)


def verdict_without_exact_draws(kl_at_least: float, coverage: Sequence[Coverage]) -> Verdict:
    """From what other strings say, and from the part of KL(q ‖ target) that the sampler's own draws show, nats."""
    if contradiction := _contradiction(coverage):
        return contradiction
    if kl_at_least > CLOSE:
        return Verdict("differs", f"does not sample the posterior: KL(sampler || target) is at least {kl_at_least:.2g}")
    return Verdict("not known", "not known: there are no exact draws, and no contrary evidence")


def wrong_weights(difference: float) -> Verdict:
    """The engine's log q differ from those of the adapter by `difference`, nats a token: nothing else counts then."""
    return Verdict(
        "wrong weights",
        f"of other weights: the engine's log q differ from the adapter's by {difference:.2g} nats a token, more than "
        "their precision allows. Its samples are not those of this adapter",
    )


def total_variation_bound(gap: float) -> float:
    """Largest total variation at a gap [nats]: the smaller of two divergences is at most half of their sum."""
    return min(math.sqrt(max(gap, 0.0)) / 2.0, 1.0)


def _failure(figures: Mapping[str, Interval], number: str, coverage: Sequence[Coverage]) -> Verdict:
    """The kind of a sampler whose gap is too large."""
    under, over, slope = figures["underrated"], figures["overrated"], figures["tempering"]
    # a sampler that collapsed draws what it draws far too often, too: KL(target ‖ sampler) tells it from a flat one
    is_narrow = figures["kl_p_q"].value > figures["kl_q_p"].value
    if under.value >= FEW and (under.value >= over.value or over.value < MANY or is_narrow):
        seldom = f"it draws {under.value:.0%} of the target 20 times too seldom"
        return Verdict("misses mass", f"misses mass: {seldom} ({number}){_worst(coverage)}")
    if over.value >= MANY:
        return Verdict("too flat", f"too flat: {over.value:.0%} of its draws are 20 times too frequent ({number})")
    if slope.high < 1.0:
        return Verdict("too flat", f"too flat: log q has slope {slope.value:.2f} over log R/T ({number})")
    if slope.low > 1.0:
        return Verdict("too peaked", f"too peaked: log q has slope {slope.value:.2f} over log R/T ({number})")
    return Verdict("differs", f"does not sample the posterior ({number})")


def _contradiction(coverage: Sequence[Coverage]) -> Verdict | None:
    """Misses mass, where known strings hold more than the samplers' own estimates of log Z have room for."""
    missing = [c.figures["missing"] for c in coverage]
    if not missing or sum(missing) / len(missing) < FEW:
        return None
    prompts = sum(share >= FEW for share in missing)
    where = f" on {prompts:,} of {len(missing):,} prompts" if len(missing) > 1 else ""
    share = max(missing)
    return Verdict(
        "misses mass",
        f"misses mass: known strings hold {share:.0%} more than its own estimate of log Z leaves room for{where}"
        f"{_worst(coverage)}",
    )


def _worst(coverage: Sequence[Coverage]) -> str:
    """The heaviest string that the sampler underrates, or nothing."""
    shown = [c for c in coverage if c.underrated]
    if not shown:
        return ""
    worst = max(shown, key=lambda c: (c.underrated_share, c.underrated_u))
    return f"; such as {worst.underrated!r}, u = {worst.underrated_u:+.1f} where its own draws say {_own(worst)}"


def _own(coverage: Coverage) -> str:
    return f"log Z = {coverage.figures['log_z_own']:+.1f}"


def _nats(interval: Interval) -> str:
    ends = f" [{_short(interval.low)}, {_short(interval.high)}]" if math.isfinite(interval.low) else ""
    return f"{_short(interval.value)}{ends} nats"


def _short(value: float) -> str:
    """Two digits, at most three places."""
    return f"{round(value, 3) + 0.0:.2g}"  # + 0.0: not "-0"
