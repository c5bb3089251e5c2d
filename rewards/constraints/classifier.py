"""A sequence classifier: c is the probability that it gives to one label.

{kind = "classifier", folder = "models/sentiment", label = "positive"}

Every prefix is classified, so a response of T tokens costs T+1 texts; choose a small one.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rewards.constraints.settings import Constraint, ConstraintSettings


class Classifier(ConstraintSettings):
    """{kind = "classifier", folder = "...", label = "..."}"""

    kind: Literal["classifier"]
    folder: str
    """A sequence-classification model as transformers saves it: config.json, safetensors and tokenizer."""
    label: str
    """One of the labels in its config.json."""
    max_tokens: int = Field(default=256, ge=1)
    """Of a text; what is longer is cut."""
    batch_size: int = Field(default=32, ge=1)
    """Texts at a time."""
    device: str = "cpu"

    def build(self) -> Constraint:
        """ValueError unless the folder is a classifier with that label. Its weights are loaded when they are needed:
        actors and learner build the task too, and never ask."""
        return _Probability(self, _label_index(Path(self.folder), self.label))


class _Probability:
    """[K] log p(label | text), nats; of a text without tokens, what a guess is worth."""

    def __init__(self, settings: Classifier, label: int) -> None:
        self._settings = settings
        self._label = label
        self._parts: tuple[Any, Any] | None = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        size = self._settings.batch_size
        return np.concatenate([np.zeros(0), *(self._of(texts[k : k + size]) for k in range(0, len(texts), size))])

    def _of(self, texts: Sequence[str]) -> NDArray[np.float64]:
        import torch

        tokenizer, model = self._loaded()
        ids = tokenizer(list(texts), truncation=True, max_length=self._settings.max_tokens)["input_ids"]
        found = np.full(len(texts), -math.log(model.config.num_labels))
        rows = [k for k, row in enumerate(ids) if row]
        if rows:
            padded = tokenizer.pad({"input_ids": [ids[k] for k in rows]}, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                logits = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.double()
            found[rows] = logits.log_softmax(-1)[:, self._label].cpu().numpy()
        return found

    def _loaded(self) -> tuple[Any, Any]:
        if self._parts is None:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            folder = self._settings.folder
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if tokenizer.pad_token is None:
                raise ValueError(f"the tokenizer of {folder} has no pad token. Save it with one")
            self._parts = tokenizer, model.to(self._settings.device).eval().requires_grad_(False)
        return self._parts


def _label_index(folder: Path, label: str) -> int:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = {str(name): int(k) for k, name in config["id2label"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder = {str(folder)!r} is no classifier with named labels ({error!r:.120}): its config.json must have "
            "id2label. Save one there with save_pretrained (transformers)"
        ) from error
    if len(names) < 2 or config.get("problem_type") not in (None, "single_label_classification"):
        raise ValueError(f"the classifier in {str(folder)!r} must choose one of two or more labels. Give another")
    if label not in names:
        raise ValueError(f"label = {label!r} is none of the classifier's: {', '.join(sorted(names))}. Choose one")
    return names[label]
