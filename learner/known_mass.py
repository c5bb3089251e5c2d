"""Does the sampler miss mass that is known? A live check over the strings that the learner has seen.

The sum of R^(1/T) over distinct strings of a prompt is a lower bound of Z, whatever the policy draws. Its fresh draws
estimate Z too. Where the bound stands above the estimate, the policy leaves known strings out.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Sequence

import numpy as np

from buffer.drawn_rows import Drawn

MAX_PROMPTS = 1000
MAX_STRINGS = 256
"""Best strings kept of each prompt."""
WINDOW = 64
"""Newest fresh draws of each prompt from which log Z is estimated."""
MIN_DRAWS = 8
Z_SCORE = 3.0
"""Standard errors that the estimate may be off."""


class KnownMass:
    """The best strings of each prompt, and its newest fresh draws; the oldest prompts are forgotten."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[str, tuple[dict[bytes, float], deque[float]]] = OrderedDict()

    def add(self, rows: Sequence[Drawn], log_reward: Sequence[float], u: Sequence[float], temperature: float) -> float:
        """Take B rows, with log R [B] at temperature 1 and u [B] of whole strings under the newest weights, nats.

        Returns the share of the known mass of R^(1/T), T = `temperature`, that the estimates leave out: a mean over the
        prompts with fresh on-policy rows among these; NaN where no prompt has MIN_DRAWS draws yet.
        """
        judged = set[str]()
        for row, log_r, u_of_row in zip(rows, log_reward, u, strict=True):
            prompt_id = row.trajectory.prompt_id
            strings, draws = self._prompts.setdefault(prompt_id, ({}, deque(maxlen=WINDOW)))
            self._prompts.move_to_end(prompt_id)
            strings[row.trajectory.token_ids.tobytes()] = log_r
            if len(strings) > MAX_STRINGS:
                del strings[min(strings, key=strings.__getitem__)]
            if row.fresh and row.behaviour == "on_policy":
                draws.append(u_of_row)
                judged.add(prompt_id)
        while len(self._prompts) > MAX_PROMPTS:
            self._prompts.popitem(last=False)
        missing = [
            _missing(strings, draws, temperature)
            for prompt_id in judged
            if prompt_id in self._prompts
            for strings, draws in [self._prompts[prompt_id]]
            if len(draws) >= MIN_DRAWS
        ]
        return float(np.mean(missing)) if missing else math.nan


def _missing(strings: dict[bytes, float], draws: Sequence[float], temperature: float) -> float:
    """Share of the mass of the strings that the draws' estimate of log Z leaves out, after its noise."""
    u, bound = np.array(draws), float(np.logaddexp.reduce(np.array(list(strings.values())) / temperature))
    w = np.exp(u - u.max())
    own = float(u.max() + np.log(w.mean()))
    noise = Z_SCORE * float(w.std(ddof=1) / w.mean()) / math.sqrt(len(w))
    return max(-math.expm1(own + noise - bound), 0.0) if bound > own + noise else 0.0
