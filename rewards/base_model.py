"""The frozen base model: log p of responses, of stopping at every prefix, and of a target behind every prefix.

Shapes   N tokens of a pass, S outputs that are read, V vocabulary; others as in packing.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from buffer.errors import ConfigError
from buffer.types import FloatArray, IntArray, PolicySpec
from lm.packing import Packed, Piece, pack
from rewards.attention import PACKED_ATTENTION, Attention
from rewards.task import BaseLogProbs, ScoreRequest

CHUNK_BYTES = 2**25
"""Of fp32 logits held at a time."""
CPU_PASS_TOKENS = 2560
"""Most of a pass on a CPU, where more no longer fit the cache: 7 % less CPU time of one thread than 8,192 took."""
TOLERANCE = {torch.float32: 0.01}
"""Nats by which a packed pass may differ from a plain one when a model is loaded; a wrong mask is off by more."""
ROUGH_TOLERANCE = 0.5
"""The same for 16-bit weights."""


class BaseModel:
    """The weights before any adapter, without gradient: a fixed batch scores the same at any time of a run."""

    def __init__(
        self, spec: PolicySpec, device: torch.device, max_tokens: int = 8192, adapter: Path | None = None
    ) -> None:
        """Load `spec.base_model` in `spec.dtype`. `max_tokens`: of one pass, prompts and copies of targets included.

        `adapter`: a PEFT folder merged into the weights, such as the M-step's. ConfigError where it does not fit, or
        where a packed pass of this model would not be a plain one's equal.
        """
        self._device = device
        self._stop = spec.stop_token_id
        self.max_tokens = min(max_tokens, CPU_PASS_TOKENS) if device.type == "cpu" else max_tokens
        """Of one pass."""
        self._name = spec.base_model
        try:
            model = AutoModelForCausalLM.from_pretrained(
                spec.base_model,
                dtype=getattr(torch, spec.dtype),
                attn_implementation=PACKED_ATTENTION,
                local_files_only=True,
            )
        except KeyError as error:  # a model that keeps a table of its own
            raise ConfigError(
                f"{spec.base_model}: its code does not know the attention {error}, which scores packed prefixes. "
                "Choose a base model whose attention transformers lets be replaced."
            ) from error
        if adapter is not None:
            model = merged(model, adapter)
        model.to(device).eval().requires_grad_(False)
        self._trunk = model.base_model
        self._head = model.get_output_embeddings()
        allowed = {*(spec.allowed_token_ids or ()), spec.stop_token_id}
        self._allowed = None if spec.allowed_token_ids is None else torch.tensor(sorted(allowed), device=device)
        self._prove(model)

    def score(self, questions: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """Score B responses, each to its question; fp32 from the logits on. Passes of at most `max_tokens` tokens."""
        found = [
            BaseLogProbs(
                np.zeros(len(z), np.float32), np.zeros(len(z) + 1, np.float32), np.zeros(len(z) + 1, np.float32)
            )
            for z in responses
        ]
        for pieces in passes(questions, responses, self.max_tokens):
            packed = pack(pieces, self._stop)
            log_p = self._log_probs(packed)
            for piece, (tokens, stops, targets) in zip(pieces, packed.spans, strict=True):
                into, n, width = found[piece.row], len(piece.response), len(piece.target)
                into.tokens[:] = log_p[tokens : tokens + n]
                into.stop[:] = log_p[stops : stops + n + 1]
                behind = log_p[targets : targets + (piece.end - piece.begin) * width]
                into.target[piece.begin : piece.end] = behind.reshape(-1, width).sum(1) if width else 0.0
        return found

    @torch.inference_mode()
    def _log_probs(self, packed: Packed) -> FloatArray:
        """[A] what is asked."""
        asked_at = torch.from_numpy(packed.asked_at).to(self._device)
        asked = torch.from_numpy(packed.asked).to(self._device)
        states, order = asked_at.sort(stable=True)
        states, counts = states.unique_consecutive(return_counts=True)  # [S]
        hidden = self._hidden(packed)[torch.where(states < 0, -1 - states, states)]
        ends = counts.cumsum(0)
        log_p = torch.empty(len(asked), device=self._device)
        chunk = max(1, CHUNK_BYTES // (4 * self._head.weight.shape[0]))
        for begin in range(0, len(states), chunk):
            part = slice(begin, begin + chunk)
            logits = self._head(hidden[part]).float()
            normaliser = self._normaliser(logits, states[part] < 0)
            first, last = int(ends[begin] - counts[begin]), int(ends[part][-1])
            row = torch.arange(len(logits), device=self._device).repeat_interleave(counts[part])
            which = order[first:last]
            log_p[which] = self._log_p(logits[row, asked[which]], normaliser[row], states[part][row] < 0, asked[which])
        scores: FloatArray = log_p.cpu().numpy()
        return scores

    def _normaliser(self, logits: Tensor, masked: Tensor) -> Tensor:
        """[S] log Σ exp over the vocabulary, or over the allowed tokens where `masked` [S]."""
        if self._allowed is None or not masked.any():
            return logits.logsumexp(-1)
        of_allowed = logits[:, self._allowed].logsumexp(-1)
        return of_allowed if masked.all() else torch.where(masked, of_allowed, logits.logsumexp(-1))

    def _log_p(self, logits: Tensor, normaliser: Tensor, masked: Tensor, asked: Tensor) -> Tensor:
        """[A] a token that is not allowed, which a tool or a demonstration may bring, counts beside those that are:
        its log p is finite, and never above 0."""
        if self._allowed is None or not masked.any():
            return logits - normaliser
        outside = masked & ~torch.isin(asked, self._allowed)
        return logits - torch.where(outside, torch.logaddexp(normaliser, logits), normaliser)

    def _hidden(self, packed: Packed) -> Tensor:
        """[N, hidden]"""
        attention = Attention(packed, self._device, self._head.weight.dtype)
        output: Tensor = self._trunk(
            input_ids=torch.from_numpy(packed.token_ids)[None].to(self._device),
            position_ids=torch.from_numpy(packed.positions)[None].to(self._device),
            packed=attention,
            use_cache=False,
        ).last_hidden_state[0]
        layers = self._trunk.config.get_text_config().num_hidden_layers
        if attention.uses != layers:
            raise ConfigError(
                f"{self._name}: {attention.uses} of its {layers} layers ask who sees whom in a packed pass. All "
                "must, or prefixes would see each other: choose a base model with attention in every layer."
            )
        return output

    @torch.inference_mode()
    def _prove(self, model: Any) -> None:
        """ConfigError unless a target behind a prefix, with other tokens in between, scores as a plain pass says.

        The example is too short to meet a window, so that is asked of the configuration.
        """
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        if kinds or (not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None)):
            raise ConfigError(
                f"{self._name}: its layers are of the kind {', '.join(sorted(kinds)) or 'sliding_attention'}, and the "
                "frozen model is scored with full attention only. Choose a base model without."
            )
        ids = (self._stop + np.arange(1, 8)) % self._head.weight.shape[0]
        context, response, target = (part.astype(np.int32) for part in np.split(ids, (2, 4)))
        said = self.score([ScoreRequest(context, target)], [response])[0]
        plain = np.append(context, target)
        logits = model(input_ids=torch.from_numpy(plain)[None].long().to(self._device), use_cache=False).logits[0]
        log_p = logits.float().log_softmax(-1).cpu().numpy()
        expected = sum(float(log_p[i - 1, plain[i]]) for i in range(len(context), len(plain)))
        limit = TOLERANCE.get(self._head.weight.dtype, ROUGH_TOLERANCE)
        if not abs(said.target[0] - expected) <= limit:
            raise ConfigError(
                f"{self._name}: a packed pass gives {said.target[0]:.4f} nats where a plain one gives {expected:.4f}, "
                f"which may differ by {limit:g}. Its layers let tokens meet outside of attention, or its logits are "
                "not its output layer's alone. Choose another base model."
            )


def merged(model: Any, adapter: Path) -> Any:
    """`model` with a LoRA adapter (a PEFT folder, safetensors) added to its weights."""
    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ConfigError(
            f"rewards.adapter = {str(adapter)!r} has no {missing[0]}: it must be a folder as PEFT saves it, with "
            "safetensors. Name the folder of an adapter, or leave it out."
        )
    try:
        given = load_file(files[1])
        wrapped = PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, TypeError, RuntimeError, KeyError, OSError) as error:
        raise ConfigError(
            f"rewards.adapter = {str(adapter)!r} does not load: {error}. It must be an adapter of this base model."
        ) from error
    kind = str(wrapped.peft_config["default"].peft_type.value)
    unmatched_keys = sorted(get_peft_model_state_dict(wrapped).keys() ^ given.keys())
    if kind != "LORA" or unmatched_keys:
        raise ConfigError(
            f"rewards.adapter = {str(adapter)!r} is a {kind} adapter, {len(unmatched_keys)} of whose tensors have "
            f"no place in the base model or are missing ({', '.join(unmatched_keys[:1])}). It must be a LoRA adapter "
            "of this model."
        )
    return wrapped.merge_and_unload(safe_merge=True)


def passes(questions: Sequence[ScoreRequest], responses: Sequence[IntArray], max_tokens: int) -> Iterator[list[Piece]]:
    """What is scored together: contexts side by side, at most `max_tokens` tokens, or one prefix where that is more."""
    order = sorted(range(len(questions)), key=lambda k: questions[k].context.tobytes())
    pieces: list[Piece] = []
    room, context = 0, b""
    for row in order:
        question, response = questions[row], responses[row]
        fed = max(len(question.target) - 1, 0)
        alone = len(question.context) + len(response)
        at_once = len(response) + 1 if not fed else max(1, (max_tokens - alone) // fed)
        for begin in range(0, len(response) + 1, at_once):
            end = min(begin + at_once, len(response) + 1)
            piece = Piece(row, question.context, response, question.target, begin, end, question.masked)
            need = len(response) + (end - begin) * fed
            shared = pieces and question.context.tobytes() == context
            if pieces and need + (0 if shared else len(question.context)) > room:
                yield pieces
                pieces = []
            if not pieces:
                room = max_tokens
                shared = False
            pieces.append(piece)
            room -= need + (0 if shared else len(question.context))
            context = question.context.tobytes()
    if pieces:
        yield pieces
