"""A toy with a tool whose reward fails now and then, and never comes back once."""

from collections.abc import Sequence

from buffer.types import IntArray, Prompt
from rewards.task import BaseLogProbs, Terms
from rewards.tasks.toys import ToyTask

EVERY, ENDLESS = 10, 15


class TroubledTask(ToyTask):
    """Each tenth new string fails, as with a service that hangs up, and the fifteenth is waited for without end; when
    they come again it is another's turn."""

    _calls = 0

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        self._calls += 1
        if self._calls > 3 and self._calls % EVERY == 0:  # the first three are those of `validate`
            raise ConnectionError("the scoring service hung up")
        while self._calls == ENDLESS:
            pass
        return super().log_reward(prompt, token_ids, base_scores)
