"""A toy with a tool whose reward raises now and then, and once never returns."""

from collections.abc import Sequence

from buffer.types import IntArray, Prompt
from rewards.task import BaseLogProbs, Terms
from rewards.tasks.toys import ToyTask

EVERY, ENDLESS = 10, 15


class TroubledTask(ToyTask):
    """Every tenth call raises, like a service that hangs up, and the fifteenth never returns. A string that failed is
    scored in another call when it comes again."""

    _calls = 0

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        self._calls += 1
        if self._calls > 3 and self._calls % EVERY == 0:  # the first three calls are made by `validate`
            raise ConnectionError("the scoring service hung up")
        while self._calls == ENDLESS:
            pass
        return super().log_reward(prompt, token_ids, base_scores)
