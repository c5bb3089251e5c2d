"""The adapter versions that one vLLM engine can sample from, each in a folder and a LoRA slot of its own."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buffer.types import AdapterFiles, AdapterVersion

MAX_VERSIONS = 4
"""Adapter versions one engine holds at once: the newest, one or two that still have requests, one that arrives."""


@dataclass(slots=True)
class ServedVersion:
    """An adapter version that the engine can sample from."""

    version: AdapterVersion
    request: Any
    """vllm.LoRARequest"""
    folder: Path
    in_flight: set[str] = field(default_factory=set)
    """Ids of the requests that it writes."""


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
        (folder / "adapter_model.safetensors").write_bytes(files.weights)
        (folder / "adapter_config.json").write_text(files.config_json)
        # every version has a name and an id of its own: vLLM's prefix cache can't mix their blocks
        request = LoRARequest(lora_name=f"v{version.number}", lora_int_id=version.number + 1, lora_path=str(folder))
        return ServedVersion(version, request, folder)

    def add(self, served: ServedVersion) -> None:
        """Serve it to all new requests."""
        self._versions[served.version.number] = served
        self.newest = served
        self.remove_idle()

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
