"""A task that can be built by the driver but not in the processes of one role."""

import traceback

from tokenizers import Tokenizer

from buffer.errors import ConfigError
from tests.support.tiny import TinyTask


def _is_in(role: str) -> bool:
    return any(frame.filename.endswith(f"/{role}_process.py") for frame in traceback.extract_stack())


class ConfigErrorInReward(TinyTask):
    """Raises an error of ours in the reward workers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if _is_in("reward"):
            raise ConfigError("the base model has a sliding window of 32 tokens.\n  Choose another model.")
        super().__init__(tokenizer)
