"""Checks of a base model by its files alone: architecture, weights, vocabulary and LoRA targets."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from buffer.errors import ConfigError, ModelError
from buffer.types import PolicySpec
from deploy.config import ModelConfig, RunConfig
from deploy.models.model_json import read_model_json, read_shards
from lm.architectures import architecture, has_native_code, packing_problem, text_config, vllm_has_lora

ALL_LINEAR = "all-linear"
NOT_LINEAR = ("norm", "router", "embed")
"""Parts of the names of tensors with two axes that are not linear layers."""
TOWERS = ("vision_config", "audio_config", "speech_config", "encoder")
"""Sections of config.json of models that read more than text."""
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")

FORMATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""model.dtype in the words of safetensors."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The contents of config.json and of the headers of the weight files."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor, by its name."""
    number_formats: frozenset[str] = frozenset()
    """Number formats of the tensors with two axes, as safetensors names them, such as BF16."""

    @classmethod
    def read(cls, folder: Path) -> "ModelFiles":
        """Read a model's folder. ModelError for files that can't be read."""
        tensors = {name: header for file in _weight_files(folder) for name, header in _headers(file).items()}
        shapes = {name: shape for name, (shape, _) in tensors.items()}
        formats = frozenset(number_format for shape, number_format in tensors.values() if len(shape) == 2)
        return cls(read_model_json(folder / "config.json"), shapes, formats)

    @property
    def rows(self) -> int | None:
        """Tokens that the model has an embedding for; None where the files do not tell."""
        tables = [
            s[0] for name, s in self.shapes.items() if name.split(".")[-2:-1] and name.split(".")[-2] in EMBEDDINGS
        ]
        size = text_config(self.config).get("vocab_size")
        return min([*tables, *([size] if isinstance(size, int) else [])], default=None)

    @property
    def linear_layers(self) -> Mapping[str, bool]:
        """Names of the linear layers that LoRA can adapt, and whether each occurs in attention only.

        These have two axes and stand in a numbered layer; embeddings, norms, routers and experts are left out.
        """
        layers: dict[str, bool] = {}
        for name, shape in self.shapes.items():
            *path, layer, kind = ["", *name.split(".")]
            linear = kind == "weight" and len(shape) == 2 and any(part.isdigit() for part in path)
            if linear and layer != "gate" and "experts" not in path and not any(word in layer for word in NOT_LINEAR):
                layers[layer] = layers.get(layer, True) and "att" in path[-1]
        return layers


def check_model(config: RunConfig, files: ModelFiles) -> None:
    """ConfigError for a base model that a run would refuse later: its architecture, weights or length."""
    name, model = config.model.name, architecture(files.config)
    if files.config.get("auto_map") and not has_native_code(files.config):
        raise ConfigError(
            f"{name} needs code of its own ({model}, auto_map in config.json), which is not run. Choose a base model "
            "that transformers has code for."
        )
    if quantization := files.config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
        raise ConfigError(
            f"{name} is quantised already (quantization_config in config.json: {method}). Take the model with whole "
            'weights, and set model.quantization = "nf4" if 4 bits are wanted.'
        )
    _check_format_for_four_bits(config, files)
    if towers := [section for section in TOWERS if files.config.get(section)]:
        raise ConfigError(
            f"{name} ({model}) has more than a language model ({towers[0]} in config.json), and an adapter would reach "
            "into it. Choose a model of text only."
        )
    if reason := packing_problem(files.config):
        raise ConfigError(
            f"{name} ({model}) can't be evaluated on packed prefixes: {reason}. Choose a base model of docs/models.md."
        )
    if config.actors.engine == "vllm" and not vllm_has_lora(model):
        raise ConfigError(
            f"{name} ({model}) can't be sampled: vLLM has no LoRA for this architecture. Choose a base model of "
            "docs/models.md with LoRA in vLLM."
        )
    longest = longest_context(files)
    if longest and config.actors.max_model_len > longest:
        raise ConfigError(
            f"actors.max_model_len = {config.actors.max_model_len} is more than the {longest} positions of "
            f"{name}. Lower it."
        )


def longest_context(files: ModelFiles) -> int | None:
    """Positions of the model, tokens; None where config.json does not say."""
    longest: int | None = text_config(files.config).get("max_position_embeddings")
    return longest


def _check_format_for_four_bits(config: RunConfig, files: ModelFiles) -> None:
    """The learner rounds the weights to model.dtype before it quantises them, and the engine quantises the file's."""
    wanted = FORMATS[config.model.dtype]
    if config.model.quantization == "none" or files.number_formats <= {wanted}:
        return
    stored = ", ".join(sorted(files.number_formats - {wanted}))
    raise ConfigError(
        f"model.quantization = {config.model.quantization!r}: {config.model.name} has weights in {stored}, of which "
        f"actors and learner would make different 4-bit weights with model.dtype = {config.model.dtype!r}. Set "
        "model.dtype to the format of the files, or save the model in this one: "
        f"AutoModelForCausalLM.from_pretrained(..., dtype={config.model.dtype!r}).save_pretrained(FOLDER)."
    )


def check_tokens(config: RunConfig, spec: PolicySpec, rows: int | None) -> None:
    """ConfigError for a token of section [policy] that the tokenizer has and the model does not."""
    if rows is None:
        return
    allowed = dict(zip(spec.allowed_token_ids or (), config.policy.allowed_tokens or (), strict=True))
    forbidden = dict(zip(spec.forbidden_token_ids, config.policy.forbidden_tokens, strict=True))
    for field, tokens in (
        ("policy.stop", {spec.stop_token_id: config.policy.stop}),
        ("policy.allowed_tokens", allowed),
        ("policy.forbidden_tokens", forbidden),
    ):
        for token, text in tokens.items():
            if token >= rows:
                raise ConfigError(
                    f"{field} = {text!r} is token {token}, beyond the {rows} rows of {config.model.name} "
                    "(vocab_size in config.json): its tokenizer has tokens that the model was not resized for. Choose "
                    "another token."
                )


def lora_targets(model: ModelConfig, files: ModelFiles) -> list[str]:
    """The linear layers that get an adapter. ConfigError where one of model.lora_targets can't have one.

    Unset: those that occur in attention only; "all-linear": all of them.
    """
    layers = files.linear_layers
    if model.lora_targets is None:
        return [name for name, attention in layers.items() if attention] or _none(model, layers)
    if model.lora_targets == ALL_LINEAR:
        return list(layers) or _none(model, layers)
    refused = [target for target in model.lora_targets if target not in layers]
    if refused:
        present = {part for name in files.shapes for part in name.split(".")}
        unsuited, missing = [t for t in refused if t in present], [t for t in refused if t not in present]
        reasons = [f"{', '.join(missing)}, which {model.name} does not have"] if missing else []
        reasons += [f"{', '.join(unsuited)}, which LoRA can't adapt here"] if unsuited else []
        raise ConfigError(f"model.lora_targets names {', and '.join(reasons)}. Choose from: {_list(layers)}.")
    return list(model.lora_targets)


def _none(model: ModelConfig, layers: Mapping[str, bool]) -> list[str]:
    raise ConfigError(
        f"model.lora_targets is {model.lora_targets or 'unset'}, and the weight files of {model.name} have no such "
        f"linear layers. Set it to some of: {_list(layers)}."
    )


def _list(layers: Sequence[str] | Mapping[str, bool]) -> str:
    return ", ".join(sorted(layers)) or "none; the model has no linear layers in its weight files"


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: others may hold the same weights under other names, or an adapter."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in read_shards(index)]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and number format of every tensor of a file, by its header."""
    if not os.access(file, os.R_OK):  # safetensors would report that the file does not exist
        raise ModelError(f"{file} of the base model is not readable by this user: fix its permissions.")
    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    except Exception as error:  # safetensors raises a class of its own
        raise ModelError(
            f"{file.name} of the base model can't be read ({error}): the file is damaged. Download the model again."
        ) from error
