"""Draw weights, rounded to 511 levels an eighth of an octave apart.

Level l in 1..511 has the weight 2 ** ((l - 256) / 8), from 2 ** -31.9 to 2 ** 31.9; weights beyond are the
outermost levels. Rounding changes a weight by at most 4.5 %. Draws follow the rounded weights exactly.
"""

import math

import numpy as np
from numpy.typing import NDArray

from buffer.store.binary_layout import LEVEL_COUNT

STEPS_PER_OCTAVE = 8
MIDDLE = 256
WEIGHTS = np.exp2((np.arange(LEVEL_COUNT) - MIDDLE) / STEPS_PER_OCTAVE)
"""[LEVEL_COUNT] weight of each level. Level 0 holds no items: for a new item it means the highest level in use."""
WEIGHTS[0] = 0.0


def level_of(priority: float, exponent: float) -> int:
    """The level of weight = priority ** exponent; the lowest for priority 0, so that nothing starves.

    Raise ValueError for a priority that is negative or not finite.
    """
    if not (math.isfinite(priority) and priority >= 0):
        raise ValueError(f"priority = {priority} must be finite and >= 0; fix the function that computed it")
    if exponent == 0.0:
        return MIDDLE
    if priority == 0.0:
        return 1
    # In logs, so that no exponent overflows.
    return min(max(round(MIDDLE + STEPS_PER_OCTAVE * exponent * math.log2(priority)), 1), LEVEL_COUNT - 1)


def effective_size(counts: NDArray[np.int64]) -> float:
    """(sum w)^2 / sum w^2 over all items, from the number [LEVEL_COUNT] of items at each level; 0 for none."""
    second_moment = float(counts @ WEIGHTS**2)
    return float(counts @ WEIGHTS) ** 2 / second_moment if second_moment else 0.0
