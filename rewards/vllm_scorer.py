"""The frozen base model on vLLM: log p of responses and of stopping at every prefix.

For tasks that score continuations and have the memory for a second engine. A prefix is a request of its own on the
prefix cache, and feeds again what fills no whole block there. A target behind every prefix is left to base_model.py,
which feeds each distinct token once.
"""

from collections.abc import Sequence

import numpy as np

from buffer.errors import ConfigError
from buffer.types import IntArray, PolicySpec
from lm.vllm import start_vllm
from rewards.task import BaseLogProbs, ScoreRequest

MOST_IDS = 128
"""Chosen log-probabilities that vLLM returns of a request."""
MOST_AT_ONCE = 64
"""Prefixes that the engine works on at once."""


class VllmScorer:
    """The weights before any adapter. Scores as BaseModel does, where no question has a target."""

    def __init__(
        self,
        spec: PolicySpec,
        on_gpu: bool,
        max_model_len: int = 512,
        kv_cache_gib: int = 1,
        gpu_memory_fraction: float = 0.3,
        threads: int = 1,
    ) -> None:
        """Start an engine in this process; takes tens of seconds.

        `max_model_len`: tokens of context and response; `kv_cache_gib`: on a CPU, GiB; `gpu_memory_fraction`: on a GPU,
        for weights and cache; `threads`: on a CPU, 0 leaves it to torch.
        """
        wanted = len(spec.allowed_token_ids or ()) + 2  # the stop, and a token that is not allowed
        if wanted > MOST_IDS:
            raise ConfigError(
                f"policy.allowed_tokens has {wanted - 2} tokens, and vLLM scores at most {MOST_IDS - 2} of a prefix. "
                'Allow fewer, or set rewards.scorer = "transformers".'
            )
        self._stop = spec.stop_token_id
        self._allowed = sorted({*(spec.allowed_token_ids or ()), spec.stop_token_id})
        self._masks = spec.allowed_token_ids is not None
        self._longest = max_model_len
        self._engine = start_vllm(
            spec,
            on_gpu=on_gpu,
            gpu_memory_fraction=gpu_memory_fraction,
            kv_cache_gib=kv_cache_gib,
            max_model_len=max_model_len,
            max_requests=MOST_AT_ONCE,
            log_probs=MOST_IDS,
        )
        self._count = 0
        if threads and not on_gpu:
            import torch

            torch._C.set_num_threads(threads)  # vLLM's CPU worker makes torch.set_num_threads do nothing

    def score(self, questions: Sequence[ScoreRequest], responses: Sequence[IntArray]) -> list[BaseLogProbs]:
        """Score B responses, each to its question. ConfigError for a question with a target, or for too long a text."""
        for question, response in zip(questions, responses, strict=True):
            self._check(question, response)
        places = {}
        for row, (question, response) in enumerate(zip(questions, responses, strict=True)):
            text = np.concatenate([question.context, response]).tolist()
            for i in range(len(response) + 1):
                ids = {self._stop, *response[i : i + 1].tolist(), *(self._allowed if self._is_masked(question) else ())}
                places[self._ask(text[: len(question.context) + i], sorted(ids))] = row, i
        found = [
            BaseLogProbs(
                np.zeros(len(z), np.float32), np.zeros(len(z) + 1, np.float32), np.zeros(len(z) + 1, np.float32)
            )
            for z in responses
        ]
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    row, i = places[output.request_id]
                    said = {token: one.logprob for token, one in output.outputs[0].logprobs[0].items()}
                    self._read(said, self._is_masked(questions[row]), responses[row], i, found[row])
        return found

    def _read(self, said: dict[int, float], masked: bool, response: IntArray, i: int, into: BaseLogProbs) -> None:
        """Put down what is said behind prefix i; a token that is not allowed counts beside those that are."""
        total = float(np.logaddexp.reduce([said[token] for token in self._allowed])) if masked else 0.0
        into.stop[i] = said[self._stop] - total
        if i < len(response):
            token = int(response[i])
            outside = masked and token not in self._allowed
            into.tokens[i] = said[token] - (np.logaddexp(total, said[token]) if outside else total)

    def _is_masked(self, question: ScoreRequest) -> bool:
        return question.masked and self._masks

    def _ask(self, text: list[int], ids: list[int]) -> str:
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
        self._engine.add_request(f"s{self._count}", {"prompt_token_ids": text}, params)
        return f"s{self._count}"

    def _check(self, question: ScoreRequest, response: IntArray) -> None:
        if len(question.target):
            raise ConfigError(
                f"the task asks for a target of {len(question.target)} tokens behind every prefix, and with "
                'rewards.scorer = "vllm" only continuations are scored. Set rewards.scorer = "transformers".'
            )
        if len(question.context) + len(response) >= self._longest:
            raise ConfigError(
                f"a context of {len(question.context)} tokens and a response of {len(response)} do not fit the "
                f"{self._longest - 1} that the scoring engine makes room for. Raise its max_model_len, or shorten them."
            )
