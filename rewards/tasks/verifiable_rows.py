"""Prompts of a verifiable task from rows of data: a column with text or a conversation, or a template of columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from buffer.errors import ModelError
from buffer.types import Prompt
from lm.chat_template import render_chat
from lm.tokens import encode_prompt
from rewards.data_file import Row
from rewards.tasks.custom_rows import Template


class PromptMaker:
    """Turns rows into prompts."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model_folder: Path,
        prompt: str,
        chat: bool,
        system: str,
        template_arguments: Mapping[str, object],
    ) -> None:
        """`prompt`: a column, or a template such as "Q: {question}"; `chat`: text is a message of the user.

        ValueError for a bad template.
        """
        self._tokenizer = tokenizer
        self._model_folder = model_folder
        self._column = prompt
        self._template = Template(prompt, "prompt") if "{" in prompt else None
        self._chat = chat
        self._system = system
        self._arguments = template_arguments

    def make(self, prompt_id: str, row: Row, row_name: str) -> tuple[Prompt, object]:
        """The prompt, and what a reward function sees of it: a text, or a list of messages.

        ValueError, with the row's name, for a row that gives no prompt.
        """
        value = self._template.fill(row, row_name) if self._template else self._value(row, row_name)
        messages = self._messages(value, row_name)
        try:
            text = str(value) if messages is None else render_chat(self._model_folder, messages, self._arguments)
        except (ValueError, ModelError) as error:
            raise ValueError(f"the prompt of {row_name}: {error}") from error
        token_ids = encode_prompt(self._tokenizer, text)
        if not len(token_ids):
            raise ValueError(f"the prompt of {row_name} is empty")
        return Prompt(prompt_id, text, token_ids), value if messages is None else messages

    def _value(self, row: Row, row_name: str) -> object:
        if self._column in row:
            return row[self._column]
        raise ValueError(
            f"{row_name} has no column {self._column!r}, only {', '.join(map(str, row)) or 'none'}: set prompt to the "
            "column of the prompts, or to a template of columns such as 'Q: {question}'"
        )

    def _messages(self, value: object, row_name: str) -> list[dict[str, object]] | None:
        """The conversation up to the answer; None for a prompt that is plain text."""
        system: list[dict[str, object]] = [{"role": "system", "content": self._system}] if self._system else []
        if isinstance(value, str):
            return [*system, {"role": "user", "content": value}] if self._chat else None
        if not isinstance(value, list) or not value or not all(map(_is_message, value)):
            raise ValueError(
                f"the prompt of {row_name} is {str(value)[:80]!r}: it must be a text, or a list of messages "
                '{"role": "user", "content": "..."}'
            )
        messages = [dict(message) for message in value]
        if messages[-1]["role"] == "assistant":  # the answer in data for supervised fine-tuning
            messages = messages[:-1]
        if not messages:
            raise ValueError(f"the prompt of {row_name} has no message in front of the answer")
        return [*system, *messages] if messages[0]["role"] != "system" else messages


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def split_rows(rows: Sequence[tuple[str, Row]], held_out: int | float) -> tuple[int, int]:
    """(training rows, held-out rows). `held_out`: a number of rows, or a share below 1. ValueError if none remains."""
    count = round(held_out * len(rows)) if isinstance(held_out, float) and held_out < 1 else int(held_out)
    if not 0 <= count < len(rows):
        raise ValueError(f"held_out = {held_out} must leave one of {len(rows)} rows to train on: lower it")
    return len(rows) - count, count
