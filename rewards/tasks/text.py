"""Helpers of the free-text tasks: prompts from text, splits, responses as text."""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from buffer.types import IntArray, Prompt
from lm.tokens import encode_prompt


def make_text_prompt(tokenizer: Tokenizer, name: str, text: str) -> Prompt:
    """A prompt from text, with the special tokens that the tokenizer adds."""
    return Prompt(name, text, encode_prompt(tokenizer, text))


def prompts_of_split(prompts: Mapping[str, Sequence[Prompt]], split: str) -> Sequence[Prompt]:
    """The prompts of a split. Raise ValueError for a split that does not exist."""
    if split not in prompts:
        raise ValueError(
            f"split {split!r} does not exist, only {', '.join(prompts)}: set held_out above 0 for a split 'test'"
        )
    return prompts[split]


def decode_text(tokenizer: Tokenizer, token_ids: IntArray) -> str:
    """A response [T] as text, with special tokens, without surrounding white space."""
    text: str = tokenizer.decode(token_ids.tolist(), skip_special_tokens=False)
    return text.strip()
