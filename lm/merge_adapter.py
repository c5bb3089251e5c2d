"""Merges a LoRA adapter (a PEFT folder of somebody) into a base model; what it holds is checked and never executed.

A PEFT configuration names layers by regular expressions. One that backtracks can take longer than any run, and no
signal reaches a process that builds a model in another thread, so it is tried in a process that can be killed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from buffer.errors import ConfigError
from buffer.types import PolicySpec
from lm.from_folder import load_weights

MAX_SETTINGS_BYTES = 2**20
PATTERN_LIMIT_S = 10.0
"""Longest trial of the patterns, s, with the start of a process. Those of PEFT take milliseconds."""
_TRY_PATTERNS = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for form in (pattern, rf"(.*\\.)?({pattern})$", rf".*\\.[^.]*\\.{pattern}\\.(\\d+)\\."):
        expression = re.compile(form)
        for name in names:
            expression.match(name)
"""
"""In the forms in which PEFT searches them: whole names, the ends of names, numbered layers."""


def load_merged(spec: PolicySpec, adapter: Path | None) -> Any:
    """The policy as a plain transformers model: whole base weights with a run's adapter in them; None: without one."""
    model = load_weights(AutoModelForCausalLM, spec.base_model, dtype=getattr(torch, spec.dtype))
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # the only one in transformers that applies the cap
    return model if adapter is None else merged(model, adapter, "the run's adapter")


def merged(model: Any, adapter: Path, setting: str = "rewards.adapter") -> Any:
    """`model` with a LoRA adapter (a PEFT folder, safetensors) added to its weights.

    ConfigError, with the name of the `setting` that the folder came from, where it does not fit.
    """
    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ConfigError(
            f"{setting} = {str(adapter)!r} has no {missing[0]}: it must be a folder as PEFT saves it, with "
            "safetensors. Name the folder of an adapter, or leave it out."
        )
    try:
        _check_settings(files[0], [name for name, _ in model.named_modules()])
        tensors = load_file(files[1])
        if damaged := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"{len(damaged)} of its tensors hold NaN or infinity, the first one {damaged[0]}")
        wrapped = PeftModel.from_pretrained(model, str(adapter))
    except (ValueError, TypeError, RuntimeError, KeyError, OSError) as error:
        raise ConfigError(
            f"{setting} = {str(adapter)!r} does not load: {error}. It must be an adapter of this base model."
        ) from error
    kind = str(wrapped.peft_config["default"].peft_type.value)
    unmatched_keys = sorted(get_peft_model_state_dict(wrapped).keys() ^ tensors.keys())
    if kind != "LORA" or unmatched_keys:
        raise ConfigError(
            f"{setting} = {str(adapter)!r} is a {kind} adapter, {len(unmatched_keys)} of whose tensors have no "
            f"place in the base model or are missing ({', '.join(unmatched_keys[:1])}). It must be a LoRA adapter of "
            "this model."
        )
    return wrapped.merge_and_unload(safe_merge=True)


def _check_settings(file: Path, names: list[str]) -> None:
    """ValueError where the configuration is not a JSON object, or its patterns take too long on the layers `names`."""
    if file.stat().st_size > MAX_SETTINGS_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_SETTINGS_BYTES} bytes")
    settings = json.loads(file.read_text())
    if not isinstance(settings, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    patterns = [settings[name] for name in ("target_modules", "exclude_modules") if isinstance(settings.get(name), str)]
    for name in ("rank_pattern", "alpha_pattern"):
        patterns += list(settings.get(name) or {})
    layers = settings.get("layers_pattern") or []
    patterns += [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _TRY_PATTERNS],
            input=json.dumps([patterns, names]).encode(),
            stderr=subprocess.PIPE,
            timeout=PATTERN_LIMIT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"its patterns {patterns} take longer than {PATTERN_LIMIT_S:g} s on this model's layers"
        ) from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(f"its patterns {patterns} are not regular expressions: {''.join(last)}") from None
