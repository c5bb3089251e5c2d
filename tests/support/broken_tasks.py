"""Tasks whose reward breaks its contract, each in one way."""

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
    """One value where there should be one a prefix."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {"r": np.array([0.0])}


class RaisingTask(_Broken):
    """Can't take the empty string."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {"r": np.full(len(token_ids) + 1, 1 / len(token_ids))}


class SilentTask(_Broken):
    """No term at all."""

    def log_reward(self, prompt, token_ids, base_scores):  # type: ignore[no-untyped-def]
        return {}
