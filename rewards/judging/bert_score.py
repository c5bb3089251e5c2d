"""BERTScore: similarity in meaning of a text and a reference, token by token (Zhang et al., arXiv 1904.09675)."""

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
"""Number of pairs whose states are in memory at a time."""


def bert_score_f1(
    hypotheses: Sequence[str],
    references: Sequence[str],
    folder: Path,
    depth: float = 0.75,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """[K] F1 of each hypothesis with its reference, at most 1. Equal texts get 1, an empty text gets 0.

    Each token is matched with the token of the other text, special tokens included, whose state is nearest by cosine.
    Precision is the mean over the hypothesis's tokens, recall the mean over the reference's. States are taken after the
    share `depth` of the layers, rounded up; the authors chose 9 of 12 and 18 of 24 for BERT. There are no idf weights
    and no rescaling, so scores lie close together and are comparable only between runs with the same encoder and
    depth, not with those of Hu et al. (arXiv 2310.04363), who rescale scores of deberta-xlarge-mnli.

    `folder` holds any local encoder, such as that of a `SentenceEmbedder`; each call loads it. Raise ValueError for
    lists of different lengths, ModelError if the folder is not an encoder.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: give one per hypothesis")
    encoder = Encoder(folder, MAX_TOKENS, depth, device)
    f1 = np.zeros(len(hypotheses))
    for begin in range(0, len(f1), PAIRS):
        pairs = list(zip(hypotheses[begin : begin + PAIRS], references[begin : begin + PAIRS], strict=True))
        states = _states(encoder, sorted({text for pair in pairs for text in pair}))
        f1[begin : begin + PAIRS] = [_f1(states[hypothesis], states[reference]) for hypothesis, reference in pairs]
    return f1


def _states(encoder: Encoder, texts: Sequence[str]) -> dict[str, "tuple[Tensor, Tensor]"]:
    """Text -> (its tokens' states [T, D] at length 1, [T] true for a token of the text, false for a special one)."""
    states = {}
    for batch in encoder.encode(texts):
        unit = batch.states / batch.states.norm(dim=-1, keepdim=True)
        for row, k in enumerate(batch.indices):
            present = batch.present[row]
            states[texts[k]] = unit[row, present], batch.content[row, present]
    return states


def _f1(hypothesis: "tuple[Tensor, Tensor]", reference: "tuple[Tensor, Tensor]") -> float:
    (states, content), (reference_states, reference_content) = hypothesis, reference
    if not content.any() or not reference_content.any():
        return 0.0
    cosines = states @ reference_states.T
    precision = float(cosines.amax(1)[content].mean())
    recall = float(cosines.amax(0)[reference_content].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
