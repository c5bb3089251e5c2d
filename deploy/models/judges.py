"""The models that judge samples, where they have been downloaded; loaded when the first text is judged."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from buffer.types import FloatArray
from deploy.models.registry import find_model
from rewards.task import Judges, Task

ENCODER = "all-minilm-l6-v2"


def find_judges() -> Judges:
    """With the packaged encoder where it is in the cache, else without. ModelError when the copy there is damaged."""
    folder = find_model(ENCODER)
    return Judges() if folder is None else judges_of(folder)


def judges_of(folder: Path) -> Judges:
    """Both judges from the encoder in `folder`. Nothing is loaded before one of them is called."""

    @cache
    def embedder() -> Any:
        from rewards.judging.embedding import SentenceEmbedder

        return SentenceEmbedder(folder)

    def embed(texts: Sequence[str]) -> FloatArray:
        place = {text: k for k, text in enumerate(dict.fromkeys(texts))}  # samples repeat: each text is embedded once
        vectors: FloatArray = embedder().embed(list(place))[[place[text] for text in texts]]
        return vectors

    def bert_score(hypotheses: Sequence[str], references: Sequence[str]) -> FloatArray:
        from rewards.judging.bert_score import bert_score_f1

        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: give each its own")
        place = {pair: k for k, pair in enumerate(dict.fromkeys(zip(hypotheses, references, strict=True)))}
        scores = bert_score_f1([h for h, _ in place], [r for _, r in place], folder)
        return scores[[place[pair] for pair in zip(hypotheses, references, strict=True)]].astype(np.float32)

    return Judges(embed, bert_score)


def left_out(task: Task, figures: Mapping[str, object], judges: Judges) -> str | None:
    """Where a model that judges is not there: which of the task's figures are missing, and how to get it."""
    missing = [name for name in task.explanations if name not in figures]
    if not missing or judges.embed is not None:
        return None
    return (
        f"Left out, for want of a model that judges texts: {', '.join(missing)}. Get it, and evaluate again: "
        f"tributary model get {ENCODER}"
    )
