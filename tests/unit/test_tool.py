"""Where a policy may stop in a response that a tool wrote into."""

import numpy as np
import pytest

from buffer.tool import stops_of
from buffer.types import IntArray


class Doubler:
    """Behind a 0 it writes the token before it, twice."""

    triggers = frozenset({0})

    def answer(self, token_ids: IntArray) -> IntArray:
        return np.repeat(token_ids[-2:-1], 2)


@pytest.mark.parametrize(
    ("tokens", "min_actions", "stops"),
    [
        ([1, 2, 3], 0, [0, 1, 2, 3]),
        ([1, 2, 3], 2, [2, 3]),
        ([1, 0, 1, 1, 5], 0, [0, 1, 4, 5]),
        ([1, 0, 1, 1, 5], 2, [4, 5]),
        ([1, 0, 1, 1, 5], 3, [5]),
        ([], 0, [0]),
        ([1], 3, [1]),
    ],
    ids=["all", "not too early", "not inside the tool's text", "both", "tool text is no action", "empty", "too short"],
)
def test_it_may_stop_behind_its_own_actions_and_the_whole_tool_text(
    tokens: list[int], min_actions: int, stops: list[int]
) -> None:
    assert stops_of(np.array(tokens, np.int32), Doubler(), min_actions).tolist() == stops


def test_a_response_that_the_policy_cannot_produce_has_all_its_prefixes() -> None:
    assert stops_of(np.array([1, 0, 2, 2], np.int32), Doubler(), 3).tolist() == [0, 1, 2, 3, 4]
