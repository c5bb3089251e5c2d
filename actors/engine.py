"""A vLLM engine that samples from several adapter versions at once and reports log q of each token and of stopping.

In-process (no engine-core child): a dead engine is a dead actor, and nothing outlives it. The same code runs on CPU and
GPU.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.behaviour import Behaviour
from actors.canary import CanaryCheck, SampleCheck
from actors.config import ActorConfig
from actors.segments import MAX_WATCHED_TOKENS, Response, Sampled, read_segment, reported_segment, segment_params
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
        "log_probs": MAX_WATCHED_TOKENS + 8,
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
        self._canary_check, self._sample_check = CanaryCheck(), SampleCheck()
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
    def canary_difference_max(self) -> float:
        """Largest mean difference of a canary, or of a version's first samples, nats."""
        return max(self._canary_check.differences.largest, self._sample_check.differences.largest)

    @property
    def canaries_exceeded(self) -> int:
        """Canaries and first samples whose mean difference exceeded the tolerance."""
        return self._canary_check.differences.exceeded + self._sample_check.differences.exceeded

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
        their places before the next step. AdapterError where a version's first samples are not its own.
        """
        outputs, self._finished = self._finished or self._advance(), []
        done = [sampled for output in outputs if output.finished and (sampled := self._end_segment(output))]
        self._compare_first_samples()
        for sampled in done:
            self._versions.finish(sampled.request_id)
        self._versions.remove_idle()
        return done

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Use a version for all later requests; those in flight finish on theirs.

        Returns the canary's mean difference, nats. Raises AdapterError, and keeps the old version, when the bytes do
        not have the announced digest, when the rank is another one than the engine was started for, or when the canary
        shows that the engine serves other weights.
        """
        digest = hashlib.sha256(files.weights).hexdigest()
        if digest != version.digest:
            raise AdapterError(
                f"adapter version {version.number} has sha256 {digest[:12]}…, but {version.digest[:12]}… was "
                "announced: the bytes are not what the learner published. Restart the run; if this happens again, "
                "check the network and memory."
            )
        rank = json.loads(files.config_json)["r"]
        if rank != self._spec.lora_rank:
            raise AdapterError(
                f"adapter version {version.number} has rank {rank}, but the engine was started for model.lora_rank = "
                f"{self._spec.lora_rank}: learner and actor have different recipes. Start both from the same one."
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
        [log_probs] = self._score_all([(prompt_token_ids, token_ids)], served)
        return log_probs

    def set_threads(self, threads: int) -> None:
        """Use this many CPU threads from now on (0: leave unchanged)."""
        if threads:
            self._engine.set_threads(threads)

    def _compare_first_samples(self) -> None:
        """Once a version: score its first samples as its canary was scored, without the prefix cache; compare."""
        for served in self._versions.to_compare():
            segments, served.first_segments, served.compared = served.first_segments, [], True
            scored = self._score_all([(segment.context, segment.token_ids) for segment in segments], served)
            reported = [segment.log_probs for segment in segments]
            self._sample_check.compare(served.version, np.concatenate(reported), np.concatenate(scored))

    def _score_all(self, texts: Sequence[tuple[IntArray, IntArray]], served: ServedVersion | None) -> list[FloatArray]:
        """`score` of several (prompt [P], tokens [T]) at the same time."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        lists = [(prompt.tolist(), tokens.tolist()) for prompt, tokens in texts]
        waiting = {self._submit(prompt + tokens, params, served): k for k, (prompt, tokens) in enumerate(lists)}
        result: dict[int, FloatArray] = {}
        while len(result) < len(texts):
            for output in self._advance():
                if output.request_id not in waiting:
                    self._finished.append(output)
                elif output.finished:
                    k = waiting[output.request_id]
                    prompt, tokens = lists[k]
                    entries = output.prompt_logprobs[len(prompt) :]
                    log_probs = [entries[i][token].logprob for i, token in enumerate(tokens)]
                    result[k] = np.array(log_probs, dtype=np.float32)
        return [result[k] for k in range(len(texts))]

    def _advance(self) -> list[Any]:
        """One step of vLLM; its outputs. AdapterError where a version was removed that a request samples from."""
        for response in self._open.values():
            if response.served is not None and response.served not in self._versions:
                raise AdapterError(
                    f"adapter version {response.served.version.number} was removed while responses were sampled from "
                    "it: the rest of their text would come from other weights. Continue the run with --resume, and "
                    "report this."
                )
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
        if response.served is not None:
            response.served.note(reported_segment(response.prompt + response.tokens, output.outputs[0]))
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
