"""The order in which the actors of a run sample the prompts.

The prompts are visited in passes: each pass is a permutation of all prompts, from the run's seed and the pass's number.
Position t of the whole order is a turn. Actors claim turns from one counter of the run (buffer/actor_counters.py), so n
actors cover n times as many prompts, a fast actor takes more of them, and restarted, resumed, added or removed actors
go on where the run is.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from buffer.types import Prompt

MIN_SAMPLES_PER_CLAIM = 16
"""An actor claims turns for at least this many trajectories at once: a claim is one round trip to Redis."""


def prompt_order(
    prompts: Sequence[Prompt], seed: int, samples_per_prompt: int, claim: Callable[[int], int]
) -> Iterator[Prompt]:
    """The prompts of one actor, without end; each comes `samples_per_prompt` times in a row.

    `claim(n)` reserves n turns for the caller and returns the first of them.
    """
    n_turns = max(MIN_SAMPLES_PER_CLAIM // samples_per_prompt, 1)
    pass_number, permutation = -1, np.zeros(0, np.int64)
    while True:
        first = claim(n_turns)
        for turn in range(first, first + n_turns):
            if turn // len(prompts) != pass_number:
                pass_number = turn // len(prompts)
                permutation = np.random.default_rng((seed, pass_number)).permutation(len(prompts))
            for _ in range(samples_per_prompt):
                yield prompts[permutation[turn % len(prompts)]]
