"""Tasks whose reward breaks the contract, each in one way."""

import numpy as np

from tests.support.tiny import TinyTask


class _Broken(TinyTask):
    def __init__(self, tokenizer) -> None:  # type: ignore[no-untyped-def]
        self._ids = [0, 1, 2]
        self.log_r = {(): 0.0}
        from buffer.types import Prompt

        self._prompt = Prompt("broken", "pick", np.array([11], np.int32))


class NanTask(_Broken):
    """NaN from the first token on."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {"r": np.array([0.0] + [np.nan] * len(token_ids))}


class ShortTask(_Broken):
    """One value instead of one per prefix."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {"r": np.array([0.0])}


class RaisingTask(_Broken):
    """Raises for the empty string."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {"r": np.full(len(token_ids) + 1, 1 / len(token_ids))}


class SilentTask(_Broken):
    """Returns no terms."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {}
