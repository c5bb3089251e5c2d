"""The 40 strings, with a reward that fails on request."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from rewards.task import BaseLogProbs, Terms
from tests.support.tiny import TinyTask


class SoakTask(TinyTask):
    """Does once what the file `request` says, and takes it away: raise, nan, hang, exit or segfault."""

    def __init__(self, tokenizer: Tokenizer, request: str) -> None:
        super().__init__(tokenizer)
        self._request = Path(request)
        self._taken = self._request.with_suffix(".taken")

    def log_reward(self, prompt: Prompt, token_ids: IntArray, base_scores: Sequence[BaseLogProbs]) -> Terms:
        terms = super().log_reward(prompt, token_ids, base_scores)
        try:
            self._request.rename(self._taken)
        except FileNotFoundError:
            return terms
        how = self._taken.read_text()
        if how == "nan":
            return {name: np.full_like(values, np.nan) for name, values in terms.items()}
        if how == "exit":
            os._exit(3)
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        while how == "hang":
            pass
        raise ConnectionError("the scoring service hung up")
