"""The models that judge samples, if they have been downloaded. They are loaded when the first text is judged."""

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
    """The judges that use the packaged encoder; empty if it is not in the cache. ModelError if its copy is damaged."""
    folder = find_model(ENCODER)
    return Judges() if folder is None else load_judges(folder)


def load_judges(folder: Path) -> Judges:
    """Both judges, from the encoder in `folder`. It is loaded when one of them is first called."""

    @cache
    def embedder() -> Any:
        from rewards.judging.embedding import SentenceEmbedder

        return SentenceEmbedder(folder)

    def embed(texts: Sequence[str]) -> FloatArray:
        index = {text: k for k, text in enumerate(dict.fromkeys(texts))}  # samples repeat: each text is embedded once
        vectors: FloatArray = embedder().embed(list(index))[[index[text] for text in texts]]
        return vectors

    def bert_score(hypotheses: Sequence[str], references: Sequence[str]) -> FloatArray:
        from rewards.judging.bert_score import bert_score_f1

        if len(hypotheses) != len(references):
            raise ValueError(
                f"{len(hypotheses)} hypotheses and {len(references)} references: give one reference per hypothesis"
            )
        index = {pair: k for k, pair in enumerate(dict.fromkeys(zip(hypotheses, references, strict=True)))}
        scores = bert_score_f1([h for h, _ in index], [r for _, r in index], folder)
        return scores[[index[pair] for pair in zip(hypotheses, references, strict=True)]].astype(np.float32)

    return Judges(embed, bert_score)


JUDGED = ("diversity", "bert_score")
"""Figures of tasks that need the encoder. Others may be missing too, such as that of a size that no prompt has."""


def omitted_figures(task: Task, figures: Mapping[str, object], judges: Judges) -> str | None:
    """A sentence on the task's figures that are missing because the encoder is not installed, and the fix; or None."""
    missing = [name for name in task.explanations if name in JUDGED and name not in figures]
    if not missing or judges.embed is not None:
        return None
    return (
        f"Omitted, because the model that judges texts is not installed: {', '.join(missing)}. Install it, then "
        f"evaluate again: tributary model get {ENCODER}"
    )
