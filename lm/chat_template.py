"""Conversations as text, by the chat template of a model folder."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from buffer.errors import ModelError
from lm.from_folder import load_settings

Message = Mapping[str, object]
"""{"role": "user", "content": "..."}"""


@functools.cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = load_settings(AutoTokenizer, folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no tokenizer that transformers can read: {str(error)[:200]}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json). Use an "
            "instruction-tuned model, or give prompts as text"
        )
    return tokenizer


def render_chat(folder: Path, messages: Sequence[Message], arguments: Mapping[str, object]) -> str:
    """The text of a conversation up to where the assistant's answer begins, special tokens written out.

    `arguments` reach the template, such as {"enable_thinking": False}. ModelError without a template; ValueError for
    messages that the template refuses, such as an unknown role.
    """
    tokenizer = _tokenizer(str(folder))
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True, **arguments
        )
    except ModelError:
        raise
    except Exception as error:  # a template raises what it likes
        raise ValueError(f"the chat template refuses it: {str(error).splitlines()[0]:.160}") from error
    return text
