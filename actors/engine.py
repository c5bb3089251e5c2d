"""A vLLM engine that samples from several adapter versions at once and reports log q of each token and of stopping.

In-process (no engine-core child): a dead engine is a dead actor, and nothing outlives it. The same code runs on CPU and
GPU.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.behaviour import Behaviour
from actors.canary import CanaryCheck
from actors.config import ActorConfig
from actors.segments import MAX_ALLOWED_TOKENS, Response, Sampled, read_segment, segment_params
from actors.served_versions import MAX_VERSIONS, ServedVersion, ServedVersions
from buffer.errors import AdapterError
from buffer.tool import Tool
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, IntArray, PolicySpec
from lm.vllm import start_vllm


def engine_settings(config: ActorConfig) -> dict[str, int]:
    """The arguments of `start_vllm` that come from a recipe's section."""
    return {
        "kv_cache_gib": config.kv_cache_gib,
        "max_model_len": config.max_model_len,
        "max_requests": config.max_in_flight,
        "log_probs": MAX_ALLOWED_TOKENS + 8,
        "versions": MAX_VERSIONS,
        "tensor_parallel": config.tensor_parallel,
    }


class Engine:
    """A SamplingEngine (actors/engine_protocol.py) on vLLM. It also scores given tokens."""

    def __init__(
        self, spec: PolicySpec, config: ActorConfig, folder: Path, seed: int, on_gpu: bool, tool: Tool | None = None
    ) -> None:
        """Start the engine; takes tens of seconds. `folder` receives adapter files, removed when a version is done.

        `tool` writes into responses after its triggers.
        """
        self._spec = spec
        self._tool = tool
        self._engine = start_vllm(
            spec,
            on_gpu=on_gpu,
            seed=seed,
            **engine_settings(config),
        )
        self._versions = ServedVersions(folder, self._engine.remove_lora)
        self._canary_check = CanaryCheck()
        self._open: dict[str, Response] = {}
        self._finished: list[Any] = []
        self._count = 0
        self.busy_s = 0.0
        """Seconds inside vLLM's steps so far."""

    @property
    def version(self) -> AdapterVersion | None:
        """The version that new requests use; None before the first."""
        return self._versions.newest.version if self._versions.newest else None

    @property
    def can_take_version(self) -> bool:
        """True while there is a free slot for one more version; `step` frees those whose last request is done."""
        return len(self._versions) < MAX_VERSIONS

    @property
    def in_flight(self) -> int:
        """Requests that `step` has not returned yet."""
        return self._engine.unfinished() + len(self._finished)

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        """Queue one response to a prompt [P]; returns its request id. It keeps today's newest version to its end."""
        served = None if use_base_model else self._versions.newest
        response = Response(f"s{self._count}", prompt_token_ids.tolist(), behaviour, served)
        if served:
            served.in_flight.add(response.request_id)
        self._next_segment(response)
        return response.request_id

    def step(self) -> list[Sampled]:
        """Advance all requests by one token; returns those that finished.

        Requests that finished while `score` ran are returned first, without advancing the others: the caller fills
        their places before the next step.
        """
        outputs, self._finished = self._finished or self._advance(), []
        done = [sampled for output in outputs if output.finished and (sampled := self._end_segment(output))]
        for sampled in done:
            self._versions.finish(sampled.request_id)
        self._versions.remove_idle()
        return done

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Use a version for all later requests; those in flight finish on theirs.

        Returns the canary's mean difference, nats. Raises AdapterError, and keeps the old version, when the bytes do
        not have the announced digest or when the canary shows that the engine serves other weights.
        """
        digest = hashlib.sha256(files.weights).hexdigest()
        if digest != version.digest:
            raise AdapterError(
                f"adapter version {version.number} has sha256 {digest[:12]}…, but {version.digest[:12]}… was "
                "announced: the bytes are not what the learner published. Restart the run; if this happens again, "
                "check the network and memory."
            )
        served = self._versions.write(version, files)
        try:
            log_probs = self.score(version.canary.prompt_token_ids, version.canary.token_ids, served)
            difference = self._canary_check.compare(version, log_probs)
        except AdapterError:
            self._versions.remove(served)
            raise
        self._versions.add(served)
        return difference

    def score(self, prompt_token_ids: IntArray, token_ids: IntArray, served: ServedVersion | None = None) -> FloatArray:
        """log q of given tokens [T] behind a prompt [P], untempered and unmasked, nats; other requests advance too."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt, tokens = prompt_token_ids.tolist(), token_ids.tolist()
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request_id = self._submit(prompt + tokens, params, served)
        while True:
            for output in self._advance():
                if output.request_id != request_id:
                    self._finished.append(output)
                elif output.finished:
                    log_probs = output.prompt_logprobs[len(prompt) :]
                    return np.array([log_probs[i][t].logprob for i, t in enumerate(tokens)], dtype=np.float32)

    def set_threads(self, threads: int) -> None:
        """Use this many CPU threads from now on (0: leave unchanged)."""
        if threads:
            self._engine.set_threads(threads)

    def _advance(self) -> list[Any]:
        """One step of vLLM; its outputs."""
        began = time.monotonic()
        outputs = self._engine.step()
        self.busy_s += time.monotonic() - began
        return outputs

    def _next_segment(self, response: Response) -> None:
        """Request the rest of a response, up to the next trigger or change of parameters."""
        params = segment_params(self._spec, self._tool, response.behaviour, response.actions)
        segment_id = self._submit(response.prompt + response.tokens, params, response.served)
        self._open[segment_id] = response

    def _end_segment(self, output: Any) -> Sampled | None:
        """Append a finished segment; returns the response it completes, None where another segment follows."""
        response, spec = self._open.pop(output.request_id), self._spec
        segment = list(output.outputs[0].token_ids)
        stopped = bool(segment) and segment[-1] == spec.stop_token_id
        if stopped:
            segment.pop()
        log_pf, log_pterm = read_segment(output.outputs[0].logprobs, segment, spec, response.actions)
        response.append_actions(segment, log_pf, log_pterm)
        if not stopped:
            response.append_tool_text(self._tool_text(response.tokens))
        if stopped or response.actions >= spec.max_actions:
            return response.finished(forced=not stopped)
        self._next_segment(response)
        return None

    def _tool_text(self, tokens: list[int]) -> list[int]:
        if self._tool is None or not tokens or tokens[-1] not in self._tool.triggers:
            return []
        text: list[int] = self._tool.answer(np.array(tokens, dtype=np.int32)).tolist()
        return text

    def _submit(self, token_ids: list[int], params: Any, served: ServedVersion | None) -> str:
        request_id = f"r{self._count}"
        self._count += 1
        self._engine.add_request(
            request_id, {"prompt_token_ids": token_ids}, params, lora_request=served.request if served else None
        )
        return request_id
