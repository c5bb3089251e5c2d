"""A vLLM engine that samples from several adapter versions at once and reports log q of what it took and of stopping.

In-process (no engine-core child): a dead engine is a dead actor, and nothing outlives it. The same code drives CPU and
GPU.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.behaviour import Behaviour
from actors.config import ActorConfig
from actors.segments import MAX_ALLOWED_TOKENS, Response, Sampled, read_segment, segment_params
from buffer.errors import AdapterError
from buffer.tool import Tool
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, IntArray, PolicySpec
from lm.vllm import start_vllm

MAX_VERSIONS = 4
"""Adapter versions one engine holds at once: the newest, one or two that finish, one that arrives."""


@dataclass(slots=True)
class _Serving:
    """An adapter version that the engine can sample from."""

    version: AdapterVersion
    request: Any
    folder: Path
    in_flight: set[str] = field(default_factory=set)


class Engine:
    """vLLM behind five verbs: add, step, serve, forget (by itself) and score."""

    def __init__(
        self, spec: PolicySpec, config: ActorConfig, folder: Path, seed: int, on_gpu: bool, tool: Tool | None = None
    ) -> None:
        """Start the engine; takes tens of seconds. `folder` receives adapter files, removed when a version is done.

        `tool` writes into responses after its triggers.
        """
        self._spec = spec
        self._tool = tool
        self._open: dict[str, Response] = {}
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = start_vllm(
            spec,
            on_gpu=on_gpu,
            gpu_memory_fraction=config.gpu_memory_fraction,
            kv_cache_gib=config.advanced.kv_cache_gib,
            max_model_len=config.max_model_len,
            max_requests=config.max_in_flight,
            log_probs=MAX_ALLOWED_TOKENS + 8,
            versions=MAX_VERSIONS,
            tensor_parallel=config.tensor_parallel,
            seed=seed,
        )
        self._serving: dict[int, _Serving] = {}
        self._newest: int | None = None
        self._finished: list[Any] = []
        self._count = 0
        self.busy_s = 0.0
        """Seconds inside vLLM's steps so far."""

    @property
    def version(self) -> AdapterVersion | None:
        """The version that new requests get; None before the first."""
        return None if self._newest is None else self._serving[self._newest].version

    @property
    def in_flight(self) -> int:
        """Requests that `step` has not returned yet."""
        return int(self._engine.get_num_unfinished_requests()) + len(self._finished)

    def add(self, prompt_token_ids: IntArray, behaviour: Behaviour, use_base_model: bool = False) -> str:
        """Queue one response; returns its request id. It keeps the version that is newest now to its end."""
        serving = None if use_base_model or self._newest is None else self._serving[self._newest]
        response = Response(f"s{self._count}", prompt_token_ids.tolist(), behaviour, serving)
        if serving:
            serving.in_flight.add(response.request_id)
        self._next_segment(response)
        return response.request_id

    def step(self) -> list[Sampled]:
        """Advance all requests by one token; returns those that finished.

        Those that finished while `score` was answered come first, and nothing is advanced then: their places are to be
        filled.
        """
        finished, self._finished = self._finished or self._advance(), []
        done = [sampled for output in finished if output.finished and (sampled := self._take(output))]
        for sampled in done:
            for serving in self._serving.values():
                serving.in_flight.discard(sampled.request_id)
        self._forget()
        return done

    def serve(self, version: AdapterVersion, files: AdapterFiles) -> float:
        """Take a version for all later requests; those in flight finish on theirs.

        Returns the largest canary difference, nats. Raises AdapterError, and goes on with the old version, when the
        bytes are not those of the digest or when the engine's log-probabilities are not those of the learner.
        """
        from vllm.lora.request import LoRARequest

        digest = hashlib.sha256(files.weights).hexdigest()
        if digest != version.digest:
            raise AdapterError(
                f"adapter version {version.number} has sha256 {digest[:12]}…, announced was {version.digest[:12]}…: "
                "the bytes are not what the learner published. Restart the run; if it comes back, check the network "
                "and memory."
            )
        folder = self._folder / f"v{version.number}"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(files.weights)
        (folder / "adapter_config.json").write_text(files.config_json)
        # every version has a name and an id of its own: vLLM's prefix cache can't mix their blocks
        request = LoRARequest(lora_name=f"v{version.number}", lora_int_id=version.number + 1, lora_path=str(folder))
        serving = _Serving(version, request, folder)
        try:
            difference = self._check_canary(serving)
        except AdapterError:
            self._drop(serving)
            raise
        self._serving[version.number] = serving
        self._newest = version.number
        self._forget()
        return difference

    @property
    def can_take_version(self) -> bool:
        """Whether there is a free slot for one more version; old ones leave when their last request is done."""
        return len(self._serving) < MAX_VERSIONS

    def score(self, prompt_token_ids: IntArray, token_ids: IntArray, serving: _Serving | None = None) -> FloatArray:
        """log q of given tokens [T] behind a prompt, untempered and unmasked, nats. Other requests go on meanwhile."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        text = np.concatenate([prompt_token_ids, token_ids])
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request_id = self._submit(text, params, serving)
        while True:
            for output in self._advance():
                if output.request_id != request_id:
                    self._finished.append(output)
                elif output.finished:
                    said = output.prompt_logprobs[len(prompt_token_ids) :]
                    return np.array([said[i][int(t)].logprob for i, t in enumerate(token_ids)], dtype=np.float32)

    def set_threads(self, threads: int) -> None:
        """Use this many CPU threads from now on, in the calling thread (0: leave as it is)."""
        if threads:
            import torch

            torch._C.set_num_threads(threads)  # vLLM's CPU worker makes torch.set_num_threads do nothing

    def _advance(self) -> list[Any]:
        """One step of vLLM."""
        began = time.monotonic()
        outputs: list[Any] = self._engine.step()
        self.busy_s += time.monotonic() - began
        return outputs

    def _next_segment(self, response: Response) -> None:
        """Ask for the rest of a response, or for what comes before the next place where something changes."""
        params = segment_params(self._spec, self._tool, response.behaviour, response.actions)
        piece = self._submit(np.array(response.prompt + response.tokens, dtype=np.int32), params, response.serving)
        self._open[piece] = response

    def _take(self, output: Any) -> Sampled | None:
        """A finished piece -> the response it completes; None where another piece follows."""
        response, spec = self._open.pop(output.request_id), self._spec
        taken = list(output.outputs[0].token_ids)
        stopped = bool(taken) and taken[-1] == spec.stop_token_id
        piece = taken[: len(taken) - stopped]
        response.take(piece, *read_segment(output.outputs[0].logprobs, piece, spec, response.actions))
        if not stopped:
            response.receive(self._tool_text(response.tokens))
        if stopped or response.actions >= spec.max_actions:
            return response.finished(forced=not stopped)
        self._next_segment(response)
        return None

    def _tool_text(self, tokens: list[int]) -> list[int]:
        if self._tool is None or not tokens or tokens[-1] not in self._tool.triggers:
            return []
        return [int(token) for token in self._tool.answer(np.array(tokens, dtype=np.int32))]

    def _submit(self, token_ids: IntArray, params: Any, serving: _Serving | None) -> str:
        request_id = f"r{self._count}"
        self._count += 1
        self._engine.add_request(
            request_id,
            {"prompt_token_ids": token_ids.tolist()},
            params,
            lora_request=serving.request if serving else None,
        )
        return request_id

    def _check_canary(self, serving: _Serving) -> float:
        canary, number = serving.version.canary, serving.version.number
        if len(canary.token_ids) == 0:
            raise AdapterError(
                f"adapter version {number} came with an empty canary, so nothing proves what it is: "
                "publish one token or more"
            )
        served = self.score(canary.prompt_token_ids, canary.token_ids, serving)
        difference = float(np.abs(served - canary.log_probs).max())
        if not difference <= canary.tolerance:
            raise AdapterError(
                f"the engine does not serve adapter version {number}: its canary log-probabilities {_show(served)} "
                f"differ from the learner's {_show(canary.log_probs)} by {difference:.4g} nats, more than "
                f"{canary.tolerance:g}. "
                "Samples would come from another policy than they are stamped with."
            )
        return difference

    def _forget(self) -> None:
        """Drop old versions that no request uses."""
        idle = [n for n, s in self._serving.items() if n != self._newest and not s.in_flight]
        for number in idle:
            self._drop(self._serving.pop(number))

    def _drop(self, serving: _Serving) -> None:
        self._engine.remove_lora(serving.request.lora_int_id)
        shutil.rmtree(serving.folder, ignore_errors=True)


def _show(values: Sequence[float] | FloatArray) -> str:
    return json.dumps([round(float(v), 4) for v in values])
