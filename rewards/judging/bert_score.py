"""BERTScore: how well the words of a text match those of a reference in meaning (Zhang et al., arXiv 1904.09675)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rewards.judging.embedding import Encoder

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENS = 512
PAIRS = 256
"""Whose states are held at a time."""


def bert_score_f1(
    hypotheses: Sequence[str],
    references: Sequence[str],
    folder: Path,
    depth: float = 0.75,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """[K] F1 of each hypothesis with its reference, at most 1: itself gives 1, an empty text 0.

    Each token is matched with the token of the other text, special ones included, whose state is nearest by cosine;
    precision is the mean over the hypothesis's own tokens, recall over the reference's. States are those after
    the share `depth` of the layers, rounded up: 9 of 12 and 18 of 24 are the authors' choice for BERT. No idf weights
    and no rescaling, so figures lie close together and compare only between runs with the same encoder and depth: not
    with those of Hu et al. (arXiv 2310.04363), from deberta-xlarge-mnli and rescaled.

    `folder` is any local encoder, such as that of a `SentenceEmbedder`; it is loaded at each call. Raise ValueError for
    lists of different length, ModelError where the folder is no encoder.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: give each its own")
    encoder = Encoder(folder, MAX_TOKENS, depth, device)
    found = np.zeros(len(hypotheses))
    for begin in range(0, len(found), PAIRS):
        pairs = list(zip(hypotheses[begin : begin + PAIRS], references[begin : begin + PAIRS], strict=True))
        states = _states(encoder, sorted({text for pair in pairs for text in pair}))
        found[begin : begin + PAIRS] = [_f1(states[hypothesis], states[reference]) for hypothesis, reference in pairs]
    return found


def _states(encoder: Encoder, texts: Sequence[str]) -> dict[str, "tuple[Tensor, Tensor]"]:
    """Of each text the tokens' states [T, D] at length 1, and which of them [T] are its own."""
    found = {}
    for batch in encoder.encode(texts):
        unit = batch.states / batch.states.norm(dim=-1, keepdim=True)
        for row, k in enumerate(batch.which):
            present = batch.present[row]
            found[texts[k]] = unit[row, present], batch.content[row, present]
    return found


def _f1(hypothesis: "tuple[Tensor, Tensor]", reference: "tuple[Tensor, Tensor]") -> float:
    (states, own), (other_states, other_own) = hypothesis, reference
    if not own.any() or not other_own.any():
        return 0.0
    cosines = states @ other_states.T
    precision, recall = float(cosines.amax(1)[own].mean()), float(cosines.amax(0)[other_own].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
