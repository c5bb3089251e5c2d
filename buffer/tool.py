"""What a tool is: something that reads a response so far and may write into it.

Its tokens are state, not action: no log q, no stopping inside (docs: the objective's conventions). Actor and reward
worker, demonstrations and tests use the same tool, so that a string means the same wherever it is replayed.
"""

from typing import Protocol

import numpy as np

from buffer.types import BoolArray, IntArray


class Tool(Protocol):
    """Deterministic: the same text gets the same answer, at any time, in any process."""

    triggers: frozenset[int]
    """Token ids after which it is asked."""
    max_tokens: int
    """Longest answer, tokens."""

    def answer(self, token_ids: IntArray) -> IntArray:
        """Tokens to append to the response `token_ids` [T], whose last token is a trigger; none for no answer."""


def actions_of(token_ids: IntArray, tool: Tool | None) -> BoolArray:
    """[T] which tokens of a whole response are actions, and which the tool wrote.

    Raise ValueError where the text after a trigger is not what the tool would have written there: such a string can't
    be reached by acting.
    """
    is_action = np.ones(len(token_ids), dtype=np.bool_)
    place = 0
    while tool is not None and place < len(token_ids):
        place += 1
        if int(token_ids[place - 1]) not in tool.triggers:
            continue
        written = tool.answer(token_ids[:place])
        found = token_ids[place : place + len(written)]
        if found.tolist() != written.tolist():
            raise ValueError(f"after token {place} the tool writes {written.tolist()}, and there is {found.tolist()}")
        is_action[place : place + len(written)] = False
        place += len(written)
    return is_action
