"""A response as vLLM writes it: in pieces, between which a tool may write, each read back as log q.

The prefix cache makes the pieces of one response as cheap as one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.behaviour import Behaviour
from buffer.errors import AdapterError
from buffer.tool import Tool
from buffer.types import BoolArray, FloatArray, IntArray, PolicySpec

MAX_ALLOWED_TOKENS = 120
"""vLLM returns at most 128 chosen log-probabilities a position, and q must be renormalised over all allowed tokens."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One finished response."""

    request_id: str
    token_ids: IntArray
    """[T] without the stop token."""
    log_pf: FloatArray
    """[T] nats, untempered."""
    log_pterm: FloatArray
    """[T+1] nats, untempered; 0 where stopping was forced, -inf where it was not allowed."""
    is_action: BoolArray
    """[T] false where the tool wrote."""

    @property
    def log_q(self) -> float:
        """log q(Z stop) of the whole string, nats."""
        return float(self.log_pf.sum(dtype=np.float64)) + float(self.log_pterm[-1])


@dataclass(slots=True)
class Response:
    """A response under way. The engine writes it piece by piece: a tool may write between two, on the prefix cache."""

    request_id: str
    prompt: list[int]
    behaviour: Behaviour
    serving: Any
    """What the engine keeps of the adapter version that writes it; None for the base model."""
    tokens: list[int] = field(default_factory=list)
    is_action: list[bool] = field(default_factory=list)
    log_pf: list[float] = field(default_factory=list)
    log_pterm: list[float] = field(default_factory=list)
    """Of every prefix up to the piece under way; 0 inside of what a tool wrote."""

    @property
    def actions(self) -> int:
        """So far."""
        return sum(self.is_action)

    def take(self, piece: Sequence[int], log_pf: Sequence[float], log_pterm: Sequence[float]) -> None:
        """Append actions [n] with log q of each, and of stopping before each and, where it was chosen, behind them."""
        self.tokens += piece
        self.is_action += [True] * len(piece)
        self.log_pf += log_pf
        self.log_pterm += log_pterm

    def receive(self, text: Sequence[int]) -> None:
        """Append what a tool wrote."""
        self.tokens += text
        self.is_action += [False] * len(text)
        self.log_pf += [0.0] * len(text)
        self.log_pterm += [0.0] * len(text)

    def finished(self, forced: bool) -> Sampled:
        """The whole; `forced`: no stop was chosen, there was no room for more actions."""
        return Sampled(
            self.request_id,
            np.array(self.tokens, dtype=np.int32),
            np.array(self.log_pf, dtype=np.float32),
            np.array([*self.log_pterm, 0.0] if forced else self.log_pterm, dtype=np.float32),
            np.array(self.is_action, dtype=np.bool_),
        )


def segment_params(spec: PolicySpec, tool: Tool | None, behaviour: Behaviour, actions: int) -> Any:
    """vLLM's parameters for the piece that begins after `actions` actions.

    Where a tool waits for its triggers, vLLM's min_tokens would mask these too: the stop is biased away instead, until
    `min_actions`, in a piece of its own.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    watched = [spec.stop_token_id] if spec.allowed_token_ids is None else _allowed(spec)
    left, early = spec.max_actions - actions, max(spec.min_actions - actions, 0)
    common: dict[str, Any] = {
        "temperature": behaviour.temperature,
        "ignore_eos": True,  # unless it is the stop token, EOS is a token like any other
        "allowed_token_ids": None if spec.allowed_token_ids is None else watched,
        "logprobs": None,
        "logprob_token_ids": watched,
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    if tool is None:
        least = left if behaviour.suppress_stop else early
        return SamplingParams(max_tokens=left, min_tokens=least, stop_token_ids=[spec.stop_token_id], **common)
    if behaviour.suppress_stop or early:
        length = left if behaviour.suppress_stop else early
        bias = {spec.stop_token_id: -100.0}
        return SamplingParams(max_tokens=length, stop_token_ids=sorted(tool.triggers), logit_bias=bias, **common)
    return SamplingParams(max_tokens=left, stop_token_ids=sorted({spec.stop_token_id, *tool.triggers}), **common)


def read_segment(
    said: Sequence[Any], taken: Sequence[int], spec: PolicySpec, actions: int
) -> tuple[list[float], list[float]]:
    """(log q of each token taken, log q of stopping before each and where it stopped), nats, from vLLM's logprobs.

    Renormalised where tokens or the stop are masked; `actions` came before this piece.
    """
    log_pf, log_pterm = list[float](), list[float]()
    for i, entries in enumerate(said):
        log_q = {token: entry.logprob for token, entry in entries.items()}
        log_stop = log_q[spec.stop_token_id]
        normaliser = (
            0.0 if spec.allowed_token_ids is None else float(np.logaddexp.reduce([log_q[t] for t in _allowed(spec)]))
        )
        if actions + i < spec.min_actions:
            normaliser += float(np.log1p(-np.exp(log_stop - normaliser)))
            log_stop = -np.inf
        log_pterm.append(log_stop - normaliser)
        if i < len(taken):
            log_pf.append(log_q[taken[i]] - normaliser)
    return log_pf, log_pterm


def _allowed(spec: PolicySpec) -> list[int]:
    allowed = sorted({*(spec.allowed_token_ids or ()), spec.stop_token_id})
    if len(allowed) > MAX_ALLOWED_TOKENS:
        raise AdapterError(
            f"{len(allowed)} allowed tokens are more than the {MAX_ALLOWED_TOKENS} that an engine can report on: "
            "allow fewer, or all"
        )
    return allowed
