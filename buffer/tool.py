"""The interface of tools: a tool reads the response so far and may write text into it.

Its tokens are state, not action: they have no log q, and the policy can't stop inside them (docs/math.md). Actors,
reward workers, demonstrations and tests use the same tool, so a string means the same wherever it is replayed.
"""

from typing import Protocol

import numpy as np

from buffer.types import BoolArray, IntArray


class Tool(Protocol):
    """A deterministic function: the same text gets the same answer, at any time, in any process."""

    triggers: frozenset[int]
    """Token ids after which the tool is called."""
    max_tokens: int
    """Maximum length of an answer, tokens."""

    def answer(self, token_ids: IntArray) -> IntArray:
        """Tokens to append to the response `token_ids` [T], whose last token is a trigger; none for no answer."""


def stops_of(token_ids: IntArray, tool: Tool | None, min_actions: int) -> IntArray:
    """[P] lengths of the prefixes of a whole response [T] at which the policy may stop, ascending, and T: not inside of
    the tool's text, not before `min_actions`. All of them for a response that the policy can't produce."""
    try:
        is_action = actions_of(token_ids, tool)
    except ValueError:
        return np.arange(len(token_ids) + 1, dtype=np.int32)
    may_stop = np.append(is_action, True) & (np.append(0, is_action.cumsum()) >= min_actions)
    may_stop[-1] = True
    return np.flatnonzero(may_stop).astype(np.int32)


def actions_of(token_ids: IntArray, tool: Tool | None) -> BoolArray:
    """[T] true for tokens of a whole response that are actions, false for those that the tool wrote.

    Raise ValueError where the text after a trigger differs from the tool's answer: the policy can't produce such a
    string.
    """
    is_action = np.ones(len(token_ids), dtype=np.bool_)
    place = 0
    while tool is not None and place < len(token_ids):
        place += 1
        if int(token_ids[place - 1]) not in tool.triggers:
            continue
        written = tool.answer(token_ids[:place])
        actual = token_ids[place : place + len(written)]
        if not np.array_equal(actual, written):
            raise ValueError(f"after token {place} the tool writes {written.tolist()}, not {actual.tolist()}")
        is_action[place : place + len(written)] = False
        place += len(written)
    return is_action
