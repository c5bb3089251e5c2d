"""The frozen base model on vLLM: log p of responses and of stopping at every prefix.

For tasks that score continuations and have the memory for a second engine. Each prefix is a request of its own on the
prefix cache; tokens that do not fill a whole block of the cache are computed again. For a target behind every prefix
use base_model.py, which computes each distinct token once.
"""

from collections.abc import Sequence

import numpy as np

from buffer.errors import ConfigError
from buffer.types import IntArray, PolicySpec
from lm.mask import log_normaliser, watched
from lm.vllm import start_vllm
from rewards.task import BaseLogProbs, ScoreRequest

MAX_LOG_PROBS = 128
"""Log-probabilities of chosen tokens that vLLM returns per request."""
MAX_REQUESTS = 64
"""Prefixes in one step of the engine."""


def scorer_settings(max_model_len: int, kv_cache_gib: int) -> dict[str, int]:
    """The settings of `lm.vllm.start_vllm` that are the scorer's: it has no adapters."""
    return {
        "kv_cache_gib": kv_cache_gib,
        "max_model_len": max_model_len,
        "max_requests": MAX_REQUESTS,
        "log_probs": MAX_LOG_PROBS,
    }


class VllmScorer:
    """The weights before any adapter. Scores as BaseModel does, where no request has a target."""

    def __init__(
        self,
        spec: PolicySpec,
        on_gpu: bool,
        max_model_len: int = 512,
        kv_cache_gib: int = 1,
        threads: int = 1,
    ) -> None:
        """Start an engine in this process; takes tens of seconds.

        `max_model_len`: tokens of context and response; `kv_cache_gib`: GiB; `threads`: on a CPU, 0 leaves it
        to torch.
        """
        self._spec, self._stop_token_id = spec, spec.stop_token_id
        self._max_model_len = max_model_len
        self._engine = start_vllm(spec, on_gpu=on_gpu, **scorer_settings(max_model_len, kv_cache_gib))
        self._count = 0
        if threads and not on_gpu:
            self._engine.set_threads(threads)

    def score(self, requests: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """Score B responses, each to its request. ConfigError for a request with a target, or for too long a text."""
        for request, response in zip(requests, responses, strict=True):
            self._check(request, response)
        prefixes: dict[str, tuple[int, int]] = {}  # request id of the engine -> (row, prefix length)
        for row, (request, response) in enumerate(zip(requests, responses, strict=True)):
            text = np.concatenate([request.context, response]).tolist()
            mask = watched(self._spec) if self._is_masked(request) else ()
            for i in range(len(response) + 1):
                ids = {self._stop_token_id, *response[i : i + 1].tolist(), *mask}
                prefixes[self._submit(text[: len(request.context) + i], sorted(ids))] = row, i
        scores = [
            BaseLogProbs(
                np.zeros(len(z), np.float32), np.zeros(len(z) + 1, np.float32), np.zeros(len(z) + 1, np.float32)
            )
            for z in responses
        ]
        while self._engine.unfinished():
            for output in self._engine.step():
                if output.finished:
                    row, i = prefixes[output.request_id]
                    log_probs = {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
                    self._read(log_probs, self._is_masked(requests[row]), responses[row], i, scores[row])
        return scores

    def _read(self, log_probs: dict[int, float], masked: bool, response: IntArray, i: int, score: BaseLogProbs) -> None:
        """Write the log-probabilities behind prefix i into `score`; a token outside of the mask is normalised over what
        is inside and itself."""
        taken = response[i : i + 1]
        inside = [self._stop_token_id, *taken[self._spec.permits(taken)].tolist()]
        total = log_normaliser(log_probs, self._spec, inside) if masked else 0.0
        score.stop[i] = log_probs[self._stop_token_id] - total
        for token in taken.tolist():
            outside = masked and token not in inside
            score.tokens[i] = log_probs[token] - (np.logaddexp(total, log_probs[token]) if outside else total)

    def _is_masked(self, request: ScoreRequest) -> bool:
        return request.masked and self._spec.is_masked

    def _submit(self, token_ids: list[int], ids: list[int]) -> str:
        """Request the log-probabilities of tokens `ids` behind a text; returns the engine's id of the request."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._count += 1
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(f"s{self._count}", {"prompt_token_ids": token_ids}, params)
        return f"s{self._count}"

    def _check(self, request: ScoreRequest, response: IntArray) -> None:
        if len(request.target):
            raise ConfigError(
                f"the task requests a target of {len(request.target)} tokens behind every prefix, and "
                'rewards.scorer = "vllm" scores continuations only. Set rewards.scorer = "transformers".'
            )
        if len(request.context) + len(response) >= self._max_model_len:
            raise ConfigError(
                f"a context of {len(request.context)} tokens and a response of {len(response)} exceed "
                f"the {self._max_model_len - 1} tokens of the scoring engine. Raise actors.max_model_len, or "
                "shorten them."
            )
