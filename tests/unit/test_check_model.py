"""A base model that a run would refuse later is refused by its files, before anything heavy starts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from buffer.errors import ConfigError
from deploy.config import RunConfig, parse_config
from deploy.driver.check_model import ModelFiles, check_model
from deploy.driver.preflight import check
from lm.architectures import WITHOUT_LORA, packing_problem
from tests.support.vllm_registry import architectures_without_lora

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 13}
LAYERS = {
    "model.embed_tokens.weight": (13, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.o_proj.weight": (4, 4),
    "model.layers.0.self_attn.q_norm.weight": (2, 2),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.layers.0.mlp.gate.weight": (2, 4),
    "model.layers.0.mlp.experts.0.w1.weight": (8, 4),
    "lm_head.weight": (13, 4),
}


def write_model(
    folder: Path, config: dict[str, Any] = LLAMA, layers: dict[str, tuple[int, ...]] = LAYERS, extra: str = ""
) -> Path:
    """A folder with the headers of a model of 13 rows; `extra` is a token more in its tokenizer alone."""
    words = [*"0123456789", ".", "pick", "<unk>", *([extra] if extra else [])]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.zeros(shape, np.float32) for name, shape in layers.items()}, folder / "model.safetensors")
    return folder


def recipe(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"name": str(folder)},
        "policy": {"stop": ".", "max_actions": 3},
        "task": {"name": "integer", "options": {"prompt": "pick"}},
    }
    return parse_config(
        {name: values.get(name, {}) | sections.get(name, {}) for name in [*values, *sections]}, source="test"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_type": "gptj", "architectures": ["GPTJForCausalLM"]},
            ["GPTJForCausalLM", "attention code of its own"],
        ),
        ({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}, ["BloomForCausalLM", "ALiBi"]),
        ({"model_type": "mpt", "architectures": ["MptForCausalLM"]}, ["MptForCausalLM", "ALiBi"]),
        ({"model_type": "falcon", "architectures": ["FalconForCausalLM"]}, ["attention code of its own"]),
        ({"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}, ["GptOssForCausalLM", "sinks"]),
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, ["MambaForCausalLM", "recurrent"]),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, ["not softmax attention (conv)"]),
        ({"model_type": "stablelm"}, ["do not pass on"]),
        ({"model_type": "diffllama"}, ["call attention twice"]),
        ({"model_type": "doge"}, ["a mask of their own"]),
        ({"model_type": "llama4_text"}, ["chunks that do not see each other"]),
        ({"model_type": "phimoe", "sliding_window": 8}, ["sliding window of 8 tokens"]),
        ({"model_type": "qwen2_moe", "sliding_window": 8, "use_sliding_window": True}, ["sliding window of 8 tokens"]),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "vLLM has no LoRA"]),
        ({"model_type": "gemma3", "vision_config": {"hidden_size": 4}}, ["vision_config", "a model of text only"]),
        (
            {"model_type": "brandnew", "auto_map": {"AutoModelForCausalLM": "modeling_brandnew.BrandNew"}},
            ["code of its own", "auto_map"],
        ),
    ],
)
def test_models_refused_late_are_refused_by_their_config_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        check(recipe(write_model(tmp_path / "model", LLAMA | changes)))
    assert all(word in str(raised.value) for word in words), str(raised.value)


@pytest.mark.parametrize("window", [4, 4096])
@pytest.mark.parametrize("model_type", ["mistral", "phi3", "gemma3_text", "gemma2", "qwen2"])
def test_a_window_of_any_length_is_no_reason_to_refuse_a_model(tmp_path: Path, model_type: str, window: int) -> None:
    config = LLAMA | {"model_type": model_type, "sliding_window": window, "layer_types": ["sliding_attention"]}
    assert check(recipe(write_model(tmp_path / "model", config)))


def test_a_model_with_code_in_its_folder_and_in_transformers_is_accepted(tmp_path: Path) -> None:
    """Phi-3 and DeepSeek-V3 carry an auto_map that transformers does not need."""
    assert check(recipe(write_model(tmp_path / "model", LLAMA | {"auto_map": {"AutoConfig": "configuration_x.X"}})))


def test_a_model_without_lora_in_vllm_runs_on_the_simulated_engine(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", LLAMA | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    assert check(recipe(model, actors={"engine": "simulated"}))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_quantised_base_accepted__it_is_refused_with_the_way_to_four_bits(tmp_path: Path, method: str) -> None:
    model = write_model(tmp_path / "model", LLAMA | {"quantization_config": {"quant_method": method}})
    with pytest.raises(
        ConfigError, match=rf"quantised already.*{method}.*whole weights.*model\.quantization = \"nf4\""
    ):
        check(recipe(model))


def test_four_bits_of_a_model_in_another_number_format__refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    """Actors quantise the weights of the files, the learner those weights rounded to model.dtype."""
    files = ModelFiles.read(write_model(tmp_path / "model"))
    four_bits = recipe(tmp_path / "model", model={"quantization": "nf4", "dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"has weights in F32, .*model\.dtype = 'bfloat16'.*dtype='bfloat16'"):
        check_model(four_bits, files)
    check_model(four_bits, replace(files, number_formats=frozenset({"BF16"})))
    check_model(recipe(tmp_path / "model", model={"dtype": "bfloat16"}), files)


@pytest.mark.parametrize("config", [LLAMA, {"model_type": "llama"}])
def test_stop_outside_of_the_model__tokens_without_a_row_are_refused_as_stop_allowed_token_or_prompt(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """By vocab_size, and where there is none by the rows of the embeddings."""
    model = write_model(tmp_path / "model", config, extra="PAD")
    assert check(recipe(model))
    with pytest.raises(ConfigError, match=r"policy\.stop = 'PAD' is token 13, beyond the 13 rows"):
        check(recipe(model, policy={"stop": "PAD"}))
    with pytest.raises(ConfigError, match=r"policy\.allowed_tokens = 'PAD' is token 13, beyond the 13 rows"):
        check(recipe(model, policy={"allowed_tokens": ["1", "PAD"]}))
    with pytest.raises(ConfigError, match=r"prompt .* has token 13, beyond the model's 13 rows"):
        check(recipe(model, task={"options": {"prompt": "pick PAD"}}))


def test_lora_targets_are_the_attention_projections_unless_they_are_set(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    checked = check(recipe(model))
    assert set(checked.spec.lora_targets) == {"q_proj", "o_proj"} == set(checked.config.model.lora_targets or [])
    checked = check(recipe(model, model={"lora_targets": "all-linear"}))
    assert set(checked.spec.lora_targets) == {"q_proj", "o_proj", "up_proj"}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], {"c_attn"}),
        (["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj"], {"qkv_proj", "o_proj"}),
        (["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"], {"query_key_value", "dense"}),
    ],
)
def test_default_lora_targets_follow_the_weight_files(tmp_path: Path, layers: list[str], expected: set[str]) -> None:
    shapes = {f"model.layers.0.{name}.weight": (4, 4) for name in layers}
    assert set(check(recipe(write_model(tmp_path / "model", layers=shapes))).spec.lora_targets) == expected


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "q_norm", "gate", "w1", "w_proj"])
def test_a_lora_target_that_cannot_be_adapted_is_refused_with_those_that_can(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError, match=rf"{target}, which .*Choose from: o_proj, q_proj, up_proj\."):
        check(recipe(write_model(tmp_path / "model"), model={"lora_targets": [target]}))


def test_layers_that_are_attention_by_another_name_are_packed() -> None:
    granite = {"model_type": "granitemoehybrid", "layer_types": ["attention"]}
    assert packing_problem(granite) is None
    assert "mamba" in str(packing_problem(granite | {"layer_types": ["attention", "mamba"]}))


def test_the_table_of_architectures_without_lora_is_that_of_the_installed_vllm() -> None:
    text = {name for name in architectures_without_lora() if name.endswith(("ForCausalLM", "LMHeadModel"))}
    assert text == WITHOUT_LORA


def test_weights_beside_the_models_own_files_are_not_its_layers(tmp_path: Path) -> None:
    """Mistral's repositories hold a second copy with other names, and a folder may hold an adapter."""
    folder = write_model(tmp_path / "model")
    other = {"layers.0.attention.wq.weight": np.zeros((4, 4), np.float32)}
    save_file(other, folder / "consolidated.safetensors")
    save_file(other, folder / "adapter_model.safetensors")
    assert set(check(recipe(folder)).spec.lora_targets) == {"q_proj", "o_proj"}
