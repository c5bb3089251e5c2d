"""Passes of a model: a token budget for all, and the layout that scores a target behind every prefix.

Naively, log p(Y | X z_1:i) for i = 0..n takes n + 1 passes over X, z_1:i and Y. Here X, z_1..z_n and a copy of Y behind
every prefix lie in one row. Strings with the same beginning share it: prompts and prefixes that responses have in
common are nodes of a prefix tree, and a copy of Y hangs on each node that is some response's prefix.

Shapes   N tokens of a pass, T response tokens, Y target tokens, A log-probabilities that are read.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from buffer.types import IntArray
from lm.prefix_tree import Indices, PackedTokens, PrefixTree, build_prefix_tree

T = TypeVar("T")


class Cost(NamedTuple):
    """The tokens that something adds to a pass."""

    context: Hashable
    """Neighbours with the same context share its tokens."""
    context_tokens: int
    own_tokens: int


def token_budget(items: Iterable[tuple[T, Cost]], max_tokens: int) -> Iterator[list[T]]:
    """Passes of at most `max_tokens` tokens, in the order of `items`; an item that costs more has a pass of its own.

    0 is no limit: one pass.
    """
    group: list[T] = []
    room, context = 0, None
    for item, cost in items:
        shared = bool(group) and cost.context == context
        need = cost.own_tokens + (0 if shared else cost.context_tokens)
        if group and max_tokens and need > room:
            yield group
            group = []
        if not group:
            room, need = max_tokens, cost.own_tokens + cost.context_tokens
        group.append(item)
        room, context = room - need, cost.context
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A response with some of its prefixes, to be scored in one pass."""

    row: int
    """Index of the response at the caller."""
    context: IntArray
    """[C]"""
    response: IntArray
    """[T]"""
    target: IntArray
    """[Y]"""
    prefixes: IntArray
    """[P] lengths of the prefixes behind which the target is scored, ascending."""
    masked: bool
    """True if the response is normalised over the allowed tokens."""

    @property
    def copied_tokens(self) -> int:
        """Tokens fed of one copy of the target: the last one predicts nothing."""
        return max(len(self.target) - 1, 0)


def scoring_passes(rows: Iterable[ScoredRow], max_tokens: int) -> Iterator[list[ScoredRow]]:
    """Rows in passes of at most `max_tokens` tokens, those of a context side by side.

    A row whose copies exceed a pass is cut between prefixes; a single prefix is never cut.
    """

    def parts() -> Iterator[tuple[ScoredRow, Cost]]:
        for row in sorted(rows, key=lambda row: row.context.tobytes()):
            fed, number = row.copied_tokens, len(row.prefixes)
            room = max_tokens - len(row.context) - len(row.response)
            at_once = max(1, room // fed) if fed else number
            for begin in range(0, number, at_once):
                prefixes = row.prefixes[begin : begin + at_once]
                own = len(row.response) + len(prefixes) * fed
                cost = Cost(row.context.tobytes(), len(row.context), own)
                yield replace(row, prefixes=prefixes), cost

    return token_budget(parts(), max_tokens)


@dataclass(frozen=True, slots=True)
class ScoringPass:
    """The tokens that a model is fed, and the log-probabilities that are read from its outputs."""

    tokens: PackedTokens
    """The tree's, then those of the copies."""
    read_at: Indices
    """[A] the token whose output is read"""
    read: Indices
    """[A] the token whose log-probability is read"""
    masked: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """[A] true if it is normalised over the allowed tokens"""
    spans: Sequence[tuple[int, int, int]]
    """Per row: where its T tokens, its T+1 stops and its targets (prefixes · Y) begin among the A."""


def pack(rows: Sequence[ScoredRow], stop_token_id: int) -> ScoringPass:
    """Lay out one pass. A row without target has no copies."""
    tree = build_prefix_tree([row.context for row in rows], [row.response for row in rows])
    copies, tokens = _hang_copies(rows, tree)
    read_at, read, masked, spans = list[Indices](), list[Indices](), list[bool](), list[tuple[int, int, int]]()
    count = 0

    def add(at: Indices, token_ids: Indices, is_masked: bool) -> int:
        nonlocal count
        read_at.append(at)
        read.append(token_ids)
        masked.extend([is_masked] * len(at))
        count += len(at)
        return count - len(at)

    for k, row in enumerate(rows):
        n, nodes = len(row.response), tree.nodes[k, : len(row.response) + 1]
        first_token = add(nodes[:n], row.response.astype(np.int64), row.masked)
        first_stop = add(nodes, np.full(n + 1, stop_token_id, dtype=np.int64), row.masked)
        first_target = count
        for node in nodes[row.prefixes] if len(row.target) else ():
            begin = copies[int(node), row.target.tobytes()]
            copy = np.arange(begin, begin + row.copied_tokens)
            add(np.append(node, copy), row.target.astype(np.int64), False)
        spans.append((first_token, first_stop, first_target))
    return ScoringPass(tokens, np.concatenate(read_at), np.concatenate(read), np.array(masked, dtype=np.bool_), spans)


def _hang_copies(rows: Sequence[ScoredRow], tree: PrefixTree) -> tuple[dict[tuple[int, bytes], int], PackedTokens]:
    """The first token of the copy of each (node, target), and the tokens of the tree with all copies behind them."""
    begins: dict[tuple[int, bytes], int] = {}
    token_ids, positions, parents = ([x] for x in (tree.tokens.token_ids, tree.tokens.positions, tree.tokens.parents))
    count = len(tree.tokens)
    for k, row in enumerate(rows):
        fed, target = row.copied_tokens, row.target.tobytes()
        for node in tree.nodes[k, row.prefixes].tolist():
            if (node, target) in begins:
                continue
            begins[node, target] = count
            token_ids.append(row.target[:fed].astype(np.int64))
            positions.append(tree.tokens.positions[node] + np.arange(1, fed + 1))
            parents.append(np.append(node, np.arange(count, count + fed - 1))[:fed])
            count += fed
    return begins, PackedTokens(np.concatenate(token_ids), np.concatenate(positions), np.concatenate(parents))
