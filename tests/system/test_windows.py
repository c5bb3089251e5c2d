"""A sliding window that packed passes would not compute is refused by validate and at load, however wide it is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lm.load
from buffer.errors import ConfigError
from buffer.types import PolicySpec
from lm.architectures import packing_problem
from lm.load import load_model
from tests.support.architectures import WINDOW_BY_MASK, make_model

POSITIONS = 128
"""Of the tiny models."""


def load(spec: PolicySpec, folder: Path) -> Any:
    return load_model(replace(spec, base_model=str(folder)), torch.device("cpu"), quantized=False)


def problem(folder: Path) -> str | None:
    return packing_problem(json.loads((folder / "config.json").read_text()))


@pytest.fixture
def short_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof's strings are shorter than the windows of these tests, as they are for a window beyond 4,096 tokens."""
    monkeypatch.setattr(lm.load, "MAX_PROVED_WINDOW", 4)


@pytest.mark.usefixtures("short_proof")
@pytest.mark.parametrize("name", WINDOW_BY_MASK)
def test_a_window_applied_by_the_mask_alone_is_refused_beyond_the_strings_of_the_proof(
    tiny_spec: PolicySpec, tmp_path: Path, name: str
) -> None:
    folder = make_model(name, tmp_path, **WINDOW_BY_MASK[name])
    with pytest.raises(ConfigError, match=r"none of its layers asks packed attention for this window|a mask that its"):
        load(tiny_spec, folder)
    assert problem(folder), "validate refuses it too"


@pytest.mark.usefixtures("short_proof")
@pytest.mark.parametrize("name", ["MistralForCausalLM", "Gemma3ForCausalLM"])
def test_a_window_that_layers_ask_for_is_accepted_beyond_the_strings_of_the_proof(
    tiny_spec: PolicySpec, tmp_path: Path, name: str
) -> None:
    folder = make_model(name, tmp_path, sliding_window=20)
    assert problem(folder) is None
    assert load(tiny_spec, folder).config.sliding_window == 20


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PhimoeForCausalLM", {"sliding_window": POSITIONS}),
        ("PhimoeForCausalLM", {"sliding_window": None}),
        ("Qwen2MoeForCausalLM", {"sliding_window": 20, "use_sliding_window": False}),
        ("Qwen2MoeForCausalLM", {"sliding_window": 20, "use_sliding_window": True, "max_window_layers": 0}),
        ("Qwen2ForCausalLM", {"sliding_window": 20, "use_sliding_window": True, "max_window_layers": 2}),
    ],
)
def test_a_window_that_hides_no_token_is_no_reason_to_refuse_a_model(
    tiny_spec: PolicySpec, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    """Phi-3.5-MoE's is as wide as its positions; Qwen's are off, or of no layer."""
    folder = make_model(name, tmp_path, **changes)
    assert problem(folder) is None
    assert load(tiny_spec, folder)


def test_a_config_without_layer_types_has_the_window_that_its_switch_says() -> None:
    config = {"model_type": "qwen2_moe", "sliding_window": 32768, "max_position_embeddings": 131072}
    assert packing_problem(config) is None
    assert packing_problem(config | {"use_sliding_window": False}) is None
    assert "32768 tokens" in str(packing_problem(config | {"use_sliding_window": True}))
