"""One pass for log p of a response and of a target behind each of its prefixes: the layout.

Naively, log p(Y | X z_1:i) for i = 0..n takes n + 1 passes over X, z_1:i and Y. Here X, z_1..z_n and a copy of Y behind
every prefix lie in one row. What has the same beginning is there once: prompts and prefixes that responses share are
nodes of a prefix tree, and a copy of Y hangs on each node that is some response's prefix.

The row is cut into segments, each a run of neighbours on one path: a context, a response, a copy. A segment's queries
see the keys of its path, so that segments of a kind are rows of one batch in attention.py.

Shapes   N tokens of a pass, G segments of a kind, Q tokens of their longest, L of their longest path, A asked
log-probabilities, S outputs at which they are asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from buffer.types import IntArray
from lm.prefix_tree import PrefixTree, build_prefix_tree

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A response with some of its prefixes, to be scored in one pass."""

    row: int
    """Which of the caller's responses."""
    context: IntArray
    """[C]"""
    response: IntArray
    """[T]"""
    target: IntArray
    """[Y]"""
    begin: int
    end: int
    """The target is scored behind prefixes begin..end-1."""
    masked: bool


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of one kind."""

    queries: Indices
    """[G, Q] tokens; 0 as padding"""
    keys: Indices
    """[G, L] the tokens of the path from the root; 0 as padding"""
    depths: Indices
    """[G, Q] a query sees keys 0..depth"""


@dataclass(frozen=True, slots=True)
class Packed:
    """What the model is fed and what is read of its outputs."""

    token_ids: Indices
    """[N] the tree's, then the copies'"""
    positions: Indices
    """[N]"""
    segments: Sequence[Segments]
    """Of contexts, of responses, of copies; a kind without tokens is left out."""
    places: Indices
    """[N] where a token is among the queries of all kinds, one after the other, flattened"""
    asked_at: Indices
    """[A] the token whose output is asked, or -1 - token where only allowed tokens count"""
    asked: Indices
    """[A] the token asked about"""
    spans: Sequence[tuple[int, int, int]]
    """Of each piece: where its answers begin: the tokens' (T), the stops' (T+1), the targets' (prefixes x Y)."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A target behind a node."""

    begin: int
    """Its first token in the row."""
    fed: int
    """Tokens of it that are fed: the last one predicts nothing."""


def pack(pieces: Sequence[Piece], stop: int) -> Packed:
    """Lay out one pass. A piece without target has no copies."""
    tree = build_prefix_tree([p.context for p in pieces], [p.response for p in pieces])
    paths = [_path(tree, int(tree.nodes[k, len(p.response)])) for k, p in enumerate(pieces)]
    contexts = {p.context.tobytes(): paths[k][: len(p.context)] for k, p in enumerate(pieces)}
    token_ids, positions = [tree.token_ids], [tree.positions]
    copies: dict[tuple[int, bytes], _Copy] = {}
    behind: list[tuple[Indices, int]] = []
    count = len(tree.token_ids)
    for path, piece in zip(paths, pieces, strict=True):
        fed = max(len(piece.target) - 1, 0)
        for i in range(piece.begin, piece.end):
            above = path[: len(piece.context) + i]
            key = int(above[-1]), piece.target.tobytes()
            if key in copies:
                continue
            copies[key] = _Copy(count, fed)
            token_ids.append(piece.target[:fed].astype(np.int64))
            positions.append(np.arange(len(above), len(above) + fed))
            behind.append((np.append(above, np.arange(count, count + fed)), len(above)))
            count += fed
    kinds = [
        [(path, 0) for path in contexts.values()],
        [(path, len(p.context)) for path, p in zip(paths, pieces, strict=True)],
        behind,
    ]
    segments = [_segments(some) for kind in kinds if (some := [(path, cut) for path, cut in kind if cut < len(path)])]
    asked_at, asked, spans = _questions(pieces, tree, copies, stop)
    return Packed(
        token_ids=np.concatenate(token_ids),
        positions=np.concatenate(positions),
        segments=segments,
        places=_places(segments, count),
        asked_at=asked_at,
        asked=asked,
        spans=spans,
    )


def _segments(cut_paths: Sequence[tuple[Indices, int]]) -> Segments:
    """Of each path, the part behind the cut as queries, all of it as keys."""
    width, longest = max(len(path) - cut for path, cut in cut_paths), max(len(path) for path, _ in cut_paths)
    queries = np.zeros((len(cut_paths), width), dtype=np.int64)
    depths = np.zeros((len(cut_paths), width), dtype=np.int64)
    keys = np.zeros((len(cut_paths), longest), dtype=np.int64)
    for k, (path, cut) in enumerate(cut_paths):
        queries[k, : len(path) - cut] = path[cut:]
        depths[k, : len(path) - cut] = np.arange(cut, len(path))
        keys[k, : len(path)] = path
    return Segments(queries, keys, depths)


def _places(segments: Sequence[Segments], count: int) -> Indices:
    """A token in several segments is read from one of them; what they find is the same."""
    places = np.zeros(count, dtype=np.int64)
    begin = 0
    for some in segments:
        lengths = some.depths.max(1) - some.depths[:, 0] + 1
        real = np.flatnonzero(np.arange(some.queries.shape[1]) < lengths[:, None])
        places[some.queries.ravel()[real]] = begin + real
        begin += some.queries.size
    return places


def _questions(
    pieces: Sequence[Piece], tree: PrefixTree, copies: dict[tuple[int, bytes], _Copy], stop: int
) -> tuple[Indices, Indices, list[tuple[int, int, int]]]:
    """Which output is asked about which token."""
    at, tokens, spans = list[Indices](), list[Indices](), list[tuple[int, int, int]]()
    count = 0

    def ask(where: Indices, what: Indices) -> int:
        nonlocal count
        at.append(where)
        tokens.append(what)
        count += len(where)
        return count - len(where)

    for k, piece in enumerate(pieces):
        n, name = len(piece.response), piece.target.tobytes()
        nodes = tree.nodes[k, : n + 1]
        read = -1 - nodes if piece.masked else nodes
        first = ask(read[:n], piece.response.astype(np.int64)), ask(read, np.full(n + 1, stop))
        begin = count
        for node in nodes[piece.begin : piece.end] if len(piece.target) else ():
            copy = copies[int(node), name]
            ask(np.append(node, np.arange(copy.begin, copy.begin + copy.fed)), piece.target.astype(np.int64))
        spans.append((*first, begin))
    return np.concatenate(at), np.concatenate(tokens), spans


def _path(tree: PrefixTree, node: int) -> Indices:
    """From the root to `node`."""
    path = []
    while node >= 0:
        path.append(node)
        node = int(tree.parents[node])
    return np.array(path[::-1], dtype=np.int64)
