"""The tokenizer's rules in one place: loading, prompts, text behind other text, single tokens.

A tokenizer.json may do more than split text: cut it (truncation), fill it (padding), put tokens in front and behind
(post-processor), and put a space in front (SentencePiece). Only the tokens in front belong to a prompt, once; none of
it belongs to text that stands behind other text, such as a target, a demonstration or a stop.
"""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from buffer.errors import ModelError
from buffer.types import IntArray

HOW_TO_SAVE = "Save the model and a fast tokenizer there with save_pretrained (transformers), or name another folder."
_ANCHORS = ("\n", ".", "0", "a")
"""Texts to put in front where a tokenizer treats the beginning of a text in its own way."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, without truncation and padding. ModelError if the file is missing or broken."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no tokenizer.json, which every model needs. {HOW_TO_SAVE}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path} can't be read: {error}. {HOW_TO_SAVE}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode_prompt(tokenizer: Tokenizer, text: str) -> IntArray:
    """[P] tokens of a text that stands first, behind the tokens that the model wants in front, such as <s>.

    Text that begins with these already, as chat templates write it, gets no second ones. Tokens that the tokenizer
    would put behind are left out: the response goes there.
    """
    plain = _ids(tokenizer, text)
    front = _front(tokenizer, text or "a")
    return _array(plain if front and plain[: len(front)] == front else front + plain)


def encode_behind(tokenizer: Tokenizer, text: str) -> IntArray:
    """[T] tokens of a text that stands behind other text: no tokens in front, and no space that the text does not have.

    ValueError where the tokenizer splits the text differently behind different texts.
    """
    if not text:
        return _array([])
    if not _adds_space(tokenizer):
        return _array(_ids(tokenizer, text))
    for anchor in _ANCHORS:
        before, whole = _ids(tokenizer, anchor), _ids(tokenizer, anchor + text)
        if whole[: len(before)] == before:
            return _array(whole[len(before) :])
    raise ValueError(f"the tokenizer joins {text!r} with whatever stands before it: begin it with another character")


def find_token(tokenizer: Tokenizer, text: str) -> int | None:
    """A token by its exact name (such as <|im_end|>), by the text that it alone stands for, or by its byte; or None."""
    token = tokenizer.token_to_id(text)
    if token is None and len(ids := encode_behind(tokenizer, text)) == 1:
        token = int(ids[0])
    if token is None and len(text.encode()) == 1:
        token = tokenizer.token_to_id(f"<0x{ord(text):02X}>")
    return token


def without_front(tokenizer: Tokenizer, prompt: IntArray) -> IntArray:
    """[P] tokens of a prompt that stands behind another: without those that the model wants in front, once."""
    front = _front(tokenizer, "a")
    return prompt[len(front) :] if front and prompt[: len(front)].tolist() == front else prompt


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _front(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens that the tokenizer puts in front of a text."""
    plain, whole = _ids(tokenizer, text), tokenizer.encode(text).ids
    for n in range(len(whole) - len(plain) + 1):
        if whole[n : n + len(plain)] == plain:
            return list(whole[:n])
    return []


def _adds_space(tokenizer: Tokenizer) -> bool:
    """True if a text's beginning gets a space that it does not have (SentencePiece): "a" and " a" become alike, or the
    first token of "a" has more characters than "a"."""
    first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
    return bool(first) and first[0] in ("▁a", "▁", "Ġa", "Ġ")


def _array(ids: list[int]) -> IntArray:
    return np.array(ids, dtype=np.int32)
