"""A response as vLLM writes it: segment by segment, with the tool's text in between, each read back as log q.

Shapes   T response tokens, n tokens of one segment.  Logs are natural, in nats.

vLLM takes and returns lists of token ids, so a response stays a list until it is finished. The prefix cache makes the
segments of one response as cheap as one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.behaviour import Behaviour
from actors.served_versions import ReportedSegment, ServedVersion
from buffer.tool import Tool
from buffer.types import AdapterVersion, BoolArray, FloatArray, IntArray, PolicySpec
from lm.mask import log_left, log_normaliser, watched

MAX_WATCHED_TOKENS = 120
"""vLLM returns at most 128 chosen log-probabilities per position; a mask needs those of all tokens that it names."""
MASKED_BIAS = -100.0
"""Nats added to the logit of a token that must not be sampled."""


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
    """[T] false where the tool wrote the token."""
    version: AdapterVersion | None
    """The adapter version that its requests named; None for the base model."""

    @property
    def log_q(self) -> float:
        """log q(Z stop) of the whole string, nats."""
        return float(self.log_pf.sum(dtype=np.float64)) + float(self.log_pterm[-1])


@dataclass(slots=True)
class Response:
    """An unfinished response, to which the engine appends segment by segment."""

    request_id: str
    prompt: list[int]
    behaviour: Behaviour
    served: ServedVersion | None
    """The adapter version that writes it; None for the base model."""
    tokens: list[int] = field(default_factory=list)
    is_action: list[bool] = field(default_factory=list)
    log_pf: list[float] = field(default_factory=list)
    log_pterm: list[float] = field(default_factory=list)
    """One entry per finished prefix; 0 inside the tool's text."""

    @property
    def actions(self) -> int:
        """Actions so far."""
        return sum(self.is_action)

    def append_actions(self, segment: Sequence[int], log_pf: Sequence[float], log_pterm: Sequence[float]) -> None:
        """Append actions [n] with `log_pf` [n]; `log_pterm` [n, or n+1 where the policy chose to stop]."""
        self.tokens += segment
        self.is_action += [True] * len(segment)
        self.log_pf += log_pf
        self.log_pterm += log_pterm

    def append_tool_text(self, text: Sequence[int]) -> None:
        """Append the tool's tokens [n]."""
        self.tokens += text
        self.is_action += [False] * len(text)
        self.log_pf += [0.0] * len(text)
        self.log_pterm += [0.0] * len(text)

    def finished(self, forced: bool) -> Sampled:
        """The complete response; `forced`: it ended because no more actions were allowed, not by choosing the stop."""
        return Sampled(
            self.request_id,
            np.array(self.tokens, dtype=np.int32),
            np.array(self.log_pf, dtype=np.float32),
            np.array([*self.log_pterm, 0.0] if forced else self.log_pterm, dtype=np.float32),
            np.array(self.is_action, dtype=np.bool_),
            self.served.version if self.served else None,
        )


def segment_params(spec: PolicySpec, tool: Tool | None, behaviour: Behaviour, actions: int) -> Any:
    """vllm.SamplingParams of the segment that begins after `actions` actions.

    Until `min_actions` the stop gets a large negative bias, in a segment of its own. vLLM's min_tokens would also mask
    the tool's triggers and every end-of-text token of generation_config.json, which are actions like any other.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    named = watched(spec)
    max_tokens, min_tokens = spec.max_actions - actions, max(spec.min_actions - actions, 0)
    common: dict[str, Any] = {
        "temperature": behaviour.temperature,
        "top_p": behaviour.top_p,
        "ignore_eos": True,  # unless it is the stop token, EOS is a token like any other
        "allowed_token_ids": None if spec.allowed_token_ids is None else named,
        "logprobs": None,
        "logprob_token_ids": named,
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    if behaviour.suppress_stop:
        min_tokens = max_tokens
    triggers = tool.triggers if tool else frozenset[int]()
    bias = dict.fromkeys(spec.forbidden_token_ids, MASKED_BIAS)
    if min_tokens:
        bias[spec.stop_token_id] = MASKED_BIAS
        return SamplingParams(max_tokens=min_tokens, stop_token_ids=sorted(triggers), logit_bias=bias, **common)
    stops = sorted({spec.stop_token_id, *triggers})
    return SamplingParams(max_tokens=max_tokens, stop_token_ids=stops, logit_bias=bias or None, **common)


def reported_segment(context: Sequence[int], output: Any) -> ReportedSegment:
    """The tokens of a finished vLLM output behind `context` [P], with the log-probabilities that came with them."""
    token_ids, logprobs = output.token_ids, output.logprobs
    log_probs = [entries[token].logprob for entries, token in zip(logprobs, token_ids, strict=True)]
    return ReportedSegment(
        np.array(context, dtype=np.int32),
        np.array(token_ids, dtype=np.int32),
        np.array(log_probs, dtype=np.float32),
    )


def read_segment(
    logprobs: Sequence[Any], segment: Sequence[int], spec: PolicySpec, actions: int
) -> tuple[list[float], list[float]]:
    """(log q of each token [n], log q of stopping before each token [n, or n+1 where it stopped]), nats.

    `logprobs` is vLLM's output: one mapping from token id to log-probability per position. They are renormalised where
    tokens or the stop are masked; `actions` came before this segment.
    """
    log_pf, log_pterm = list[float](), list[float]()
    for i, entries in enumerate(logprobs):
        log_q = {token: entry.logprob for token, entry in entries.items()}
        log_stop = log_q[spec.stop_token_id]
        taken = list(segment[i : i + 1])
        normaliser = log_normaliser(log_q, spec, [spec.stop_token_id, *taken])
        if actions + i < spec.min_actions:
            normaliser += log_left(log_stop - normaliser, [log_q[token] - normaliser for token in taken])
            log_stop = -np.inf
        log_pterm.append(log_stop - normaliser)
        if i < len(segment):
            log_pf.append(log_q[segment[i]] - normaliser)
    return log_pf, log_pterm
