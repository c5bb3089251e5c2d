"""Base of all constraints: their signature, and the parsing of a recipe's table into one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from buffer.types import IntArray

Constraint = Callable[[Sequence[str]], NDArray[np.float64]]
"""K texts -> [K] log c, nats: 0 where c holds, -inf where it fails, log of a probability in between."""

SATISFIED_LOG_C = math.log(0.5)
"""Smallest log c, nats, at which a text counts as satisfying the constraint."""


class TableSettings(BaseModel):
    """A table in a recipe; unknown fields are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ConstraintSettings(TableSettings):
    """Settings of one kind of constraint."""

    kind: str

    def build(self) -> Constraint:
        """Build the constraint. Raise ValueError, with the bad value and the fix, for settings that can't work."""
        raise NotImplementedError


S = TypeVar("S", bound=TableSettings)


def read_table(kinds: Mapping[str, type[S]], values: object, where: str) -> S:
    """Parse the table `values` into the settings of its `kind`. Raise ValueError for anything that does not fit."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where} = {_short(values)} must be a table with kind = one of: {', '.join(sorted(kinds))}")
    try:
        return kinds[kind].model_validate(values)
    except ValidationError as error:
        fields = ", ".join(field.alias or name for name, field in kinds[kind].model_fields.items())
        raise ValueError(f"{where}: {_describe(error)}. Fields of kind {kind!r}: {fields}") from error


def _describe(error: ValidationError) -> str:
    """Each bad field with its value and the error, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'table'} = {_short(e['input'])}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )


def from_predicate(holds: Callable[[str], bool]) -> Constraint:
    """A constraint from a function that accepts or rejects one text."""
    return lambda texts: np.array([0.0 if holds(text) else -math.inf for text in texts])


def prefix_texts(tokenizer: Tokenizer, token_ids: IntArray, stop_text: str = "") -> list[str]:
    """[T+1] the text of every prefix of `token_ids` [T], each followed by `stop_text`."""
    ids = token_ids.tolist()
    return [tokenizer.decode(ids[:i], skip_special_tokens=False) + stop_text for i in range(len(ids) + 1)]


def _short(value: Any) -> str:
    return f"{value!r:.80}"
