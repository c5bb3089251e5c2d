"""What all kinds of constraints share: their signature, and how a table of a recipe becomes one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from buffer.types import IntArray

Constraint = Callable[[Sequence[str]], NDArray[np.float64]]
"""K texts -> [K] log c, nats: 0 where c holds, -inf where it fails, in between for a probability."""

LEAST_SATISFIED = math.log(0.5)
"""From this log c on, nats, a text counts as satisfying: a classifier finds it more likely than not."""


class TableSettings(BaseModel):
    """Fields of a table in a recipe; none but these."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ConstraintSettings(TableSettings):
    """One kind of constraint, as a recipe describes it."""

    kind: str

    def build(self) -> Constraint:
        """The function itself. ValueError, with rule and remedy, for settings that can't be met."""
        raise NotImplementedError


S = TypeVar("S", bound=TableSettings)


def read_table(kinds: Mapping[str, type[S]], values: object, where: str) -> S:
    """The settings of the kind that the table `values` names. ValueError for anything that does not fit."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where} = {_shown(values)} must be a table with kind = one of: {', '.join(sorted(kinds))}")
    try:
        return kinds[kind].model_validate(values)
    except ValidationError as error:
        takes = ", ".join(field.alias or name for name, field in kinds[kind].model_fields.items())
        raise ValueError(f"{where}: {explain(error)}. Kind {kind!r} takes: {takes}") from error


def explain(error: ValidationError) -> str:
    """What is wrong with which field, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'it'} = {_shown(e['input'])}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    )


def each(holds: Callable[[str], bool]) -> Constraint:
    """A constraint that looks at one text at a time and says yes or no."""
    return lambda texts: np.array([0.0 if holds(text) else -math.inf for text in texts])


def prefix_texts(tokenizer: Tokenizer, token_ids: IntArray, stop_text: str = "") -> list[str]:
    """[T+1] the text of every prefix of `token_ids` [T], each with `stop_text` behind it."""
    ids = token_ids.tolist()
    return [tokenizer.decode(ids[:i], skip_special_tokens=False) + stop_text for i in range(len(ids) + 1)]


def _shown(value: Any) -> str:
    return f"{value!r:.80}"
