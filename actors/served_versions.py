"""The adapter versions that one vLLM engine can sample from, each in a folder and a LoRA slot of its own."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.canary import SAMPLED_TOKENS
from buffer.full_disk import when_there_is_room
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, IntArray

MAX_VERSIONS = 4
"""Adapter versions one engine holds at once: the newest, one or two that still have requests, one that arrives."""


@dataclass(frozen=True, slots=True)
class ReportedSegment:
    """Tokens that a version sampled, with the log-probabilities that vLLM reported with them."""

    context: IntArray
    """[P] the prompt and the response so far"""
    token_ids: IntArray
    """[n] the stop token included, where it was chosen"""
    log_probs: FloatArray
    """[n] nats, untempered and unmasked"""


@dataclass(slots=True)
class ServedVersion:
    """An adapter version that the engine can sample from."""

    version: AdapterVersion
    request: Any
    """vllm.LoRARequest"""
    folder: Path
    in_flight: set[str] = field(default_factory=set)
    """Ids of the requests that it writes."""
    first_segments: list[ReportedSegment] = field(default_factory=list)
    """The first that it finished, until they are compared with the engine's own scores."""
    compared: bool = False

    def note(self, segment: ReportedSegment) -> None:
        """Keep a finished segment for the comparison, while more tokens are needed for it."""
        if not self.compared and not self.can_compare:
            self.first_segments.append(segment)

    @property
    def can_compare(self) -> bool:
        """True from SAMPLED_TOKENS tokens on, until they are compared."""
        return not self.compared and sum(len(s.token_ids) for s in self.first_segments) >= SAMPLED_TOKENS


class ServedVersions:
    """At most MAX_VERSIONS; an old version is removed when its last request is done."""

    def __init__(self, folder: Path, remove_lora: Callable[[int], object]) -> None:
        """`folder` receives adapter files; `remove_lora` frees the LoRA slot of an id in the engine."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._remove_lora = remove_lora
        self._versions: dict[int, ServedVersion] = {}
        self.newest: ServedVersion | None = None
        """The version that new requests use."""

    def __len__(self) -> int:
        return len(self._versions)

    def write(self, version: AdapterVersion, files: AdapterFiles) -> ServedVersion:
        """Write a version's files where vLLM loads them from. It is not served until `add`."""
        from vllm.lora.request import LoRARequest

        folder = self._folder / f"v{version.number}"
        folder.mkdir(exist_ok=True)
        weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        when_there_is_room(lambda: weights.write_bytes(files.weights), folder)
        when_there_is_room(lambda: settings.write_text(files.config_json), folder)
        # every version has a name and an id of its own: vLLM's prefix cache can't mix their blocks
        request = LoRARequest(lora_name=f"v{version.number}", lora_int_id=version.number + 1, lora_path=str(folder))
        return ServedVersion(version, request, folder)

    def add(self, served: ServedVersion) -> None:
        """Serve it to all new requests."""
        self._versions[served.version.number] = served
        self.newest = served
        self.remove_idle()

    def __contains__(self, served: ServedVersion) -> bool:
        return self._versions.get(served.version.number) is served

    def to_compare(self) -> list[ServedVersion]:
        """The versions whose first samples can be compared and have not been."""
        return [served for served in self._versions.values() if served.can_compare]

    def finish(self, request_id: str) -> None:
        """Note that a request is done."""
        for served in self._versions.values():
            served.in_flight.discard(request_id)

    def remove_idle(self) -> None:
        """Remove old versions that no request uses."""
        idle = [n for n, served in self._versions.items() if served is not self.newest and not served.in_flight]
        for number in idle:
            self.remove(self._versions.pop(number))

    def remove(self, served: ServedVersion) -> None:
        """Free its LoRA slot and delete its files."""
        self._remove_lora(served.request.lora_int_id)
        shutil.rmtree(served.folder, ignore_errors=True)
