"""A sequence classifier: c is the probability of one of its labels.

{kind = "classifier", folder = "models/sentiment", label = "positive"}

Every prefix is classified, so a response of T tokens costs T+1 forward passes: choose a small model.
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
from rewards.text_file import read_text


class Classifier(ConstraintSettings):
    """{kind = "classifier", folder = "...", label = "..."}"""

    kind: Literal["classifier"]
    folder: str
    """Folder of a sequence-classification model saved by transformers: config.json, safetensors and tokenizer."""
    label: str
    """One of the labels in the model's config.json."""
    max_tokens: int = Field(default=256, ge=1)
    """Longer texts are truncated."""
    batch_size: int = Field(default=32, ge=1)
    """Texts per forward pass."""
    device: str = "cpu"

    def build(self) -> Constraint:
        """Raise ValueError unless the folder is a classifier with that label. The weights are loaded at the first call,
        because actors and learner build the task too and never call it."""
        return _Probability(self, _label_index(Path(self.folder), self.label))


class _Probability:
    """K texts -> [K] log p(label | text), nats; a text without tokens gets the uniform probability over the labels."""

    def __init__(self, settings: Classifier, label: int) -> None:
        self._settings = settings
        self._label = label
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        size = self._settings.batch_size
        return np.concatenate([np.zeros(0), *(self._log_p(texts[k : k + size]) for k in range(0, len(texts), size))])

    def _log_p(self, texts: Sequence[str]) -> NDArray[np.float64]:
        import torch

        tokenizer, model = self._load()
        ids = tokenizer(list(texts), truncation=True, max_length=self._settings.max_tokens)["input_ids"]
        log_p = np.full(len(texts), -math.log(model.config.num_labels))
        rows = [k for k, row in enumerate(ids) if row]
        if rows:
            padded = tokenizer.pad({"input_ids": [ids[k] for k in rows]}, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                logits = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits.double()
            log_p[rows] = logits.log_softmax(-1)[:, self._label].cpu().numpy()
        return log_p

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            from lm.from_folder import load_settings, load_weights

            folder = self._settings.folder
            model = load_weights(AutoModelForSequenceClassification, folder)
            tokenizer = load_settings(AutoTokenizer, folder)
            if tokenizer.pad_token is None:
                raise ValueError(f"the tokenizer of {folder} has no pad token. Save it with a pad token")
            self._loaded = tokenizer, model.to(self._settings.device).eval().requires_grad_(False)
        return self._loaded


def _label_index(folder: Path, label: str) -> int:
    try:
        config = json.loads(read_text(folder / "config.json", "config.json"))
        names = {str(name): int(k) for k, name in config["id2label"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"folder = {str(folder)!r} is not a classifier with named labels ({error!r:.120}): its config.json must "
            "have id2label. Save the model there with save_pretrained of transformers"
        ) from error
    if len(names) < 2 or config.get("problem_type") not in (None, "single_label_classification"):
        raise ValueError(f"the classifier in {str(folder)!r} must choose one of two or more labels. Use another")
    if label not in names:
        raise ValueError(f"label = {label!r} is not one of the classifier's: choose from {', '.join(sorted(names))}")
    return names[label]
