"""The prefix tree: every distinct prefix once, each seeing its own string and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.prefix_tree import build_prefix_tree
from tests.support.trees import sees

Strings = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=8)


def ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


@given(Strings, st.lists(st.integers(0, 2), min_size=1, max_size=3), st.data())
def test_each_node_sees_exactly_its_own_string(
    responses: list[list[int]], prompt: list[int], data: st.DataObject
) -> None:
    other = data.draw(st.lists(st.integers(3, 4), min_size=1, max_size=3))
    prompts = [prompt if k % 2 == 0 else other for k in range(len(responses))]
    tree = build_prefix_tree([ids(p) for p in prompts], [ids(r) for r in responses])
    for row, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        for i in range(len(r) + 1):
            seen = np.flatnonzero(sees(tree.tokens)[tree.nodes[row, i]])
            seen = seen[np.argsort(tree.tokens.positions[seen])]
            assert tree.tokens.token_ids[seen].tolist() == p + r[:i]
            assert tree.tokens.positions[seen].tolist() == list(range(len(p) + i))


@given(Strings)
def test_there_is_one_node_for_each_distinct_prefix(responses: list[list[int]]) -> None:
    tree = build_prefix_tree([ids([9, 8])] * len(responses), [ids(r) for r in responses])
    prefixes = {tuple(r[:i]) for r in responses for i in range(1, len(r) + 1)}
    assert len(tree.tokens.token_ids) == 2 + len(prefixes)


def test_the_end_of_a_short_row_repeats_its_last_node() -> None:
    tree = build_prefix_tree([ids([9])] * 2, [ids([1]), ids([1, 2, 3])])
    assert tree.nodes[0].tolist() == [0, 1, 1, 1]


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt of row 1 has no token"):
        build_prefix_tree([ids([1]), ids([])], [ids([2]), ids([2])])
