"""The files that make an adapter's folder describe itself: model card, tokenizer, generation settings, base model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from buffer.types import AdapterFiles, PolicySpec
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.model_card import model_card
from deploy.driver.preflight import Checked
from deploy.models.registry import hub_id

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files of a tokenizer; a base model has some of them."""
KEPT_TOKENS = ("bos_token_id", "pad_token_id")
"""Entries of the base model's generation_config.json that say nothing about how to sample."""


def describe_adapter(checked: Checked, folder: RunFolder) -> None:
    """Write the card and the other files next to the run's newest adapter; the adapter itself stays as it is."""
    folder.write_adapter_notes(description(checked, folder))


def description(checked: Checked, folder: RunFolder, merged: bool = False) -> dict[str, bytes]:
    """File name -> content, for a folder with the run's adapter, or with its `merged` weights."""
    version = folder.version()
    base = Path(checked.spec.base_model)
    card = model_card(checked, version.learner_step, version.digest, folder.certified(version.digest), merged)
    tokenizer = {name: (base / name).read_bytes() for name in TOKENIZER_FILES if (base / name).is_file()}
    settings = json.dumps(generation_config(checked.spec, base), indent=2, sort_keys=True) + "\n"
    return tokenizer | {"README.md": card.encode(), "generation_config.json": settings.encode()}


def portable(files: AdapterFiles, model_name: str) -> AdapterFiles:
    """`files` whose adapter_config.json names the base model by its hub id, where it has one, instead of by a path."""
    base = hub_id(model_name)
    if base is None:
        return files
    config = json.loads(files.config_json) | {"base_model_name_or_path": base}
    return replace(files, config_json=json.dumps(config, indent=2, sort_keys=True))


def generation_config(spec: PolicySpec, base: Path) -> dict[str, Any]:
    """generation_config.json with which `generate()` draws from the policy, but for a mask of allowed tokens.

    Everything that changes probabilities is set: what is left out would come from the base model's own file.
    """
    path = base / "generation_config.json"
    of_base = json.loads(path.read_text()) if path.is_file() else {}
    kept = {name: of_base[name] for name in KEPT_TOKENS if of_base.get(name) is not None}
    return {
        "pad_token_id": spec.stop_token_id,
        **kept,
        "eos_token_id": spec.stop_token_id,
        "min_new_tokens": spec.min_actions,
        "max_new_tokens": spec.max_actions,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "suppress_tokens": list(spec.forbidden_token_ids) or None,
    }
