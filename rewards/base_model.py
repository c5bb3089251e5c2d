"""The frozen base model: log p of responses, of stopping at every prefix, and of a target behind every prefix.

Shapes   S states whose outputs are read; others as in lm/packing.py.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from buffer.types import FloatArray, IntArray, PolicySpec
from lm.load import load_model
from lm.model import PackedModel
from lm.packing import ScoredRow, ScoringPass, pack, scoring_passes
from rewards.task import BaseLogProbs, ScoreRequest

MAX_CPU_PASS_TOKENS = 2560
"""On a CPU larger passes no longer fit the cache: 2,560 took 7 % less CPU time of one thread than 8,192."""


def pass_tokens(max_tokens: int, on_gpu: bool) -> int:
    """Tokens of one pass under the limit of a recipe."""
    return max_tokens if on_gpu else min(max_tokens, MAX_CPU_PASS_TOKENS)


class BaseModel:
    """The weights before any adapter, without gradient: a fixed batch scores the same at any time of a run."""

    def __init__(
        self, spec: PolicySpec, device: torch.device, max_tokens: int = 8192, adapter: Path | None = None
    ) -> None:
        """Load `spec.base_model` in `spec.dtype`. `max_tokens` of one pass include contexts and copies of targets.

        `adapter` is a PEFT folder merged into the weights, such as the M-step's. ConfigError as in lm/load.py.
        """
        self.max_tokens = pass_tokens(max_tokens, on_gpu=device.type != "cpu")
        """Tokens of one pass."""
        self._stop_token_id = spec.stop_token_id
        self._model = PackedModel(load_model(spec, device, quantized=False, adapter=adapter), spec.base_model)
        self._allowed, _ = self._model.output.of_policy(spec)
        tokens = np.arange(len(self._model.output.weight), dtype=np.int32)
        self._is_outside = torch.from_numpy(~spec.permits(tokens)).to(device)

    def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """Score B responses, each to its request; fp32 from the logits on. Passes of at most `max_tokens` tokens."""
        scores = [
            BaseLogProbs(
                np.zeros(len(z), np.float32), np.zeros(len(z) + 1, np.float32), np.zeros(len(z) + 1, np.float32)
            )
            for z in responses
        ]
        behind = [request.prefixes(len(z)) for request, z in zip(requests, responses, strict=True)]
        rows = (
            ScoredRow(k, request.context, response, request.target, behind[k], request.masked)
            for k, (request, response) in enumerate(zip(requests, responses, strict=True))
        )
        for part in scoring_passes(rows, self.max_tokens):
            layout = pack(part, self._stop_token_id)
            log_p = self._log_probs(layout)
            for row, (tokens, stops, targets) in zip(part, layout.spans, strict=True):
                score, n, width = scores[row.row], len(row.response), len(row.target)
                score.tokens[:] = log_p[tokens : tokens + n]
                score.stop[:] = log_p[stops : stops + n + 1]
                of_target = log_p[targets : targets + len(row.prefixes) * width]
                score.target[row.prefixes] = of_target.reshape(-1, width).sum(1) if width else 0.0
        for score, lengths in zip(scores, behind, strict=True):
            score.target[:] = score.target[lengths[np.searchsorted(lengths, np.arange(len(score.target)))]]
        return scores

    @torch.inference_mode()
    def _log_probs(self, layout: ScoringPass) -> FloatArray:
        """[A] the log-probabilities that a pass reads."""
        device, output = self._model.device, self._model.output
        read_at, read, masked = (torch.from_numpy(x).to(device) for x in (layout.read_at, layout.read, layout.masked))
        states, place = (2 * read_at + masked).unique(return_inverse=True)  # [S], [A]
        hidden, is_masked = self._model.hidden_states(layout.tokens)[states // 2], states % 2 == 1
        normaliser = torch.empty(len(states), device=device)
        normaliser[~is_masked] = output.log_normaliser(hidden[~is_masked])
        normaliser[is_masked] = self._allowed.log_normaliser(hidden[is_masked])
        logits = output.token_logits(hidden[place], read)
        log_p: FloatArray = (logits - self._total(logits, normaliser[place], masked, read)).cpu().numpy()
        return log_p

    def _total(self, logits: Tensor, normaliser: Tensor, masked: Tensor, read: Tensor) -> Tensor:
        """[A] a token outside of the allowed ones, which a tool or a demonstration may bring, is normalised over these
        and itself: its log p is finite, and never above 0."""
        outside = masked & self._is_outside[read]
        return torch.where(outside, torch.logaddexp(normaliser, logits), normaliser)
