"""What tasks of free text share: prompts of text, splits, a response as text."""

from collections.abc import Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt


def text_prompt(tokenizer: Tokenizer, name: str, text: str) -> Prompt:
    """A prompt of that text, with whatever special tokens the model wants in front."""
    return Prompt(name, text, np.array(tokenizer.encode(text).ids, dtype=np.int32))


def of_split(prompts: Mapping[str, Sequence[Prompt]], split: str) -> Sequence[Prompt]:
    """The prompts of a split. ValueError for a split that is not there."""
    if split not in prompts:
        raise ValueError(f"split {split!r} is not there, only {', '.join(prompts)}: held_out > 0 makes a split 'test'")
    return prompts[split]


def text_of(tokenizer: Tokenizer, token_ids: IntArray) -> str:
    """A response [T] as text, special tokens shown, without white space around it."""
    text: str = tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
    return text.strip()
