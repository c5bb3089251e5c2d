"""Export what a run has learned: its adapter, or a whole model with the adapter merged into the weights."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from buffer.errors import AdapterError, ConfigError
from buffer.types import AdapterFiles, Prompt, Trajectory, given_trajectory
from deploy.artifacts.adapter_folder import write_adapter
from deploy.artifacts.run_folder import RunFolder, check_disk
from deploy.driver.adapter_log_q import load_log_q
from deploy.driver.checked_adapter import checked_adapter
from deploy.driver.describe_adapter import description, portable
from deploy.driver.preflight import Checked
from deploy.driver.samples import judged_prompts
from learner.config import CANARY_TOLERANCE

MERGE_TOLERANCE = 1e-3
"""Nats by which log q of a string may differ between merged weights and the adapter in fp32. Rounded to 16 bits, merged
weights may differ by the canary's tolerance for every token."""
CHECKED_PROMPTS, STRINGS_A_PROMPT = 4, 2
"""Strings that the merged model writes, whose log q is compared."""


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """Largest |difference| of log q of the strings, nats."""

    strings: int
    to_adapter: float
    to_base: float


def export_adapter(checked: Checked, folder: RunFolder, target: Path) -> Path:
    """Copy the adapter, with what describes it, into a new or empty folder; returns its path.

    AdapterError where the run's adapter is not the one that its version names.
    """
    with _new_folder(target) as work:
        files = portable(checked_adapter(folder), checked.config.model.name)
        shutil.copy(folder.adapter_path / "version.json", work)
        write_adapter(work, files)
        _write(work, description(checked, folder))
    return target


def export_merged(checked: Checked, folder: RunFolder, target: Path, seed: int = 0) -> MergeCheck:
    """Write the base model with the adapter in its weights, in the run's dtype, into a new or empty folder.

    Before the folder is there, log q of a few strings that the written model samples is compared with that of adapter
    and base model. ConfigError for 4-bit base weights and an adapter that changes nothing, AdapterError where the
    merged model is not the policy.
    """
    if checked.spec.quantization != "none":
        raise ConfigError(
            f"{folder.path} was trained on base weights in 4 bits ({checked.spec.quantization}): merged into the full "
            "weights its adapter would sample another distribution. Export without --merge, and load the base model in "
            "4 bits under the adapter."
        )
    files = checked_adapter(folder)
    size = sum(file.stat().st_size for file in Path(checked.spec.base_model).glob("*.safetensors"))
    check_disk(target, size)
    with _new_folder(target) as work:
        _write(work, description(checked, folder, merged=True))
        _merge(checked, folder, work)
        _write(work, description(checked, folder, merged=True))  # saving a model writes generation_config.json, too
        return _compare(checked, files, work, seed)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder next to `target` that takes its place when the block ends well. ConfigError if `target` is in use."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise ConfigError(f"{target} exists already and is not an empty folder. Give another with --to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    work.chmod(0o755)
    try:
        yield work
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _merge(checked: Checked, folder: RunFolder, work: Path) -> None:
    """Save config.json and the merged weights."""
    from lm.merge_adapter import load_merged

    load_merged(checked.spec, folder.adapter_path).save_pretrained(work)


def _compare(checked: Checked, files: AdapterFiles, merged: Path, seed: int) -> MergeCheck:
    """log q of strings that the merged model writes, computed by the learner's code with three sets of weights."""
    prompts = judged_prompts(checked, limit=CHECKED_PROMPTS)
    strings = _strings(checked, merged, prompts, seed)
    log_q = load_log_q(checked, files)
    of_adapter, of_base = log_q(strings, False), log_q(strings, True)
    del log_q
    written = replace(checked, spec=replace(checked.spec, base_model=str(merged)))
    of_merged = load_log_q(written, files)(strings, True)
    check = MergeCheck(
        len(strings), float(np.abs(of_merged - of_adapter).max()), float(np.abs(of_merged - of_base).max())
    )
    longest, dtype = max(len(string.token_ids) + 1 for string in strings), checked.spec.dtype
    limit = MERGE_TOLERANCE if dtype == "float32" else CANARY_TOLERANCE[dtype] * longest
    if not check.to_adapter <= limit:
        raise AdapterError(
            f"log q of the merged model differs by {check.to_adapter:.2g} nats from the adapter's, and may differ by "
            f"{limit:g}: it is not the policy, and nothing was written. Export without --merge."
        )
    if not check.to_base > max(check.to_adapter, MERGE_TOLERANCE):
        raise ConfigError(
            f"log q of the merged model differs by {check.to_base:.2g} nats from the base model's: the adapter changes "
            "nothing yet, so there is nothing to export. Train further."
        )
    return check


def _strings(checked: Checked, merged: Path, prompts: Sequence[Prompt], seed: int) -> list[Trajectory]:
    """Responses that plain `generate()` of the merged model draws, among the allowed tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from lm.from_folder import load_weights

    spec = checked.spec
    model = load_weights(AutoModelForCausalLM, merged, dtype=getattr(torch, spec.dtype))
    only: dict[str, Any] = {}
    if spec.allowed_token_ids is not None:
        allowed = sorted({*spec.allowed_token_ids, spec.stop_token_id})
        only["prefix_allowed_tokens_fn"] = lambda _, __: allowed
    torch.manual_seed(seed)
    strings = []
    for prompt in prompts:
        context = torch.from_numpy(prompt.token_ids).long()[None]
        drawn = model.generate(
            context, attention_mask=torch.ones_like(context), num_return_sequences=STRINGS_A_PROMPT, **only
        )
        for row in drawn[:, context.shape[1] :].tolist():
            response = row[: row.index(spec.stop_token_id)] if spec.stop_token_id in row else row
            tokens = np.array(response, dtype=np.int32)
            strings.append(
                given_trajectory(prompt, tokens, "export", np.zeros((1, len(tokens) + 1), np.float32), ("none",))
            )
    return strings
