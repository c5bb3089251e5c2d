"""Texts -> vectors by a local encoder: one state per token (`Encoder`) or one vector per text (`SentenceEmbedder`).

torch and transformers are imported only when an encoder is loaded.

Shapes   K texts, B texts of a batch, T tokens of its longest, special tokens included, D width.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from buffer.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 8192
"""Tokens of one pass, padding included."""


class Batch(NamedTuple):
    """States of texts of similar length."""

    indices: list[int]
    """[B] their positions in the list of texts."""
    states: "Tensor"
    """[B, T, D] fp32, 0 at padding."""
    present: "Tensor"
    """[B, T] bool: true for tokens of the text and special tokens, false for padding."""
    content: "Tensor"
    """[B, T] bool: true for tokens of the text itself."""


class Encoder:
    """A bidirectional model that maps each token to a state in its context. fp32, no gradient."""

    def __init__(self, folder: Path, max_tokens: int = 256, depth: float = 1.0, device: str = "cpu") -> None:
        """Load config.json, tokenizer.json and safetensors of `folder`; raise ModelError if one is missing.

        Texts are truncated to `max_tokens` tokens, special tokens included, or to the model's number of positions.
        States are taken after the share `depth` (0..1) of the layers, rounded up.
        """
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModel

        from lm.from_folder import load_weights

        missing = [name for name in ("config.json", "tokenizer.json", "*.safetensors") if not any(folder.glob(name))]
        if missing:
            raise ModelError(
                f"{folder} is not an encoder: it lacks {', '.join(missing)}. Give an encoder's folder, or download one "
                "with: tributary model get all-minilm-l6-v2"
            )
        self._model = load_weights(AutoModel, folder, dtype=torch.float32)
        self._model.to(device).eval().requires_grad_(False)
        self._device = device
        config = self._model.config
        self._layer = math.ceil(depth * config.num_hidden_layers)
        self._pad = config.pad_token_id or 0
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()  # a tokenizer.json may configure padding and truncation of its own
        self._tokenizer.enable_truncation(min(max_tokens, getattr(config, "max_position_embeddings", max_tokens)))
        self.width: int = config.hidden_size

    def encode(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Every text once, in batches of similar length to save padding."""
        import torch

        tokens = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda k: len(tokens[k].ids))
        while order:
            longest = max(len(tokens[order[-1]].ids), 1)
            size = max(1, BATCH_TOKENS // longest)
            order, indices = order[:-size], order[-size:]
            ids = torch.full((len(indices), longest), self._pad)
            present, content = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
            for row, k in enumerate(indices):
                n = len(tokens[k].ids)
                ids[row, :n] = torch.tensor(tokens[k].ids)
                present[row, :n] = True
                content[row, :n] = torch.tensor(tokens[k].special_tokens_mask) == 0
            ids, present, content = (x.to(self._device) for x in (ids, present, content))
            with torch.inference_mode():
                output = self._model(input_ids=ids, attention_mask=present.long(), output_hidden_states=True)
                states = output.hidden_states[self._layer].masked_fill(~present[..., None], 0.0)
            yield Batch(indices, states, present, content)


class SentenceEmbedder:
    """One vector per text: the mean of its tokens' states, scaled to length 1 (Sentence-BERT, arXiv 1908.10084)."""

    def __init__(self, folder: Path, max_tokens: int = 256, device: str = "cpu") -> None:
        """Arguments as for `Encoder`; all-MiniLM-L6-v2 is meant for at most 256 tokens."""
        self._encoder = Encoder(folder, max_tokens, device=device)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[K, D] in the order of the texts; the dot product of two rows is their cosine.

        An empty text is embedded by its special tokens; if the tokenizer adds none, its row is zero.
        """
        vectors = np.zeros((len(texts), self._encoder.width), np.float32)
        for batch in self._encoder.encode(texts):
            total = batch.states.sum(1)  # the mean has the same direction
            vectors[batch.indices] = (total / total.norm(dim=-1, keepdim=True).clamp_min(1e-12)).cpu().numpy()
        return vectors
