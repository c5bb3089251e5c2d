"""The configuration of a run: one class per package, composed and checked across packages here and nowhere else.

A recipe is a TOML file; `section.setting=value` on the command line overrides it; the resolved form is written into the
run's folder.
"""

import copy
import math
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.config import ActorConfig
from buffer.config import BufferConfig
from buffer.errors import ConfigError
from buffer.server.connect import redact
from learner.config import LearnerConfig
from rewards.config import RewardConfig, TaskConfig
from rewards.text_file import read_text

MAX_LOG_WEIGHT = 69.0
"""Largest log weight of a pair of prefixes, log 1e30: fp32 still holds the sum of their squares."""


class ModelConfig(BaseModel):
    """Section `[model]`: the base model and its adapter."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: str = "smollm2-135m-instruct"
    """Base model: a local folder, a name that `tributary model get` can fetch, or a hub id in the local hub cache."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights. `auto`: bfloat16 where actors have GPUs, else float32. On CPUs without AVX512-bf16,
    bfloat16 is 3x slower than float32; on GPUs vLLM has no LoRA in float32."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: the policy's base weights in 4 bits (QLoRA) by bitsandbytes, on GPUs only. Rewards use full weights."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the adapter's matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """Scale of the adapter: its output is multiplied by lora_alpha / lora_rank."""
    lora_targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] | None = None
    """Names of the linear layers that get an adapter, or `all-linear`. Unset: the model's attention projections."""


class PolicyConfig(BaseModel):
    """Section `[policy]`: the strings that the policy can generate."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    stop: str = "."
    """Text of the stop token, written ⊤ in the docs. It must be one token of the model's vocabulary."""
    max_actions: int = Field(default=32, ge=1)
    """Largest number of tokens; after it the policy must stop."""
    min_actions: int = Field(default=0, ge=0)
    """Smallest number of tokens; before it the stop token is masked."""
    allowed_tokens: list[str] | None = None
    """If given, only these tokens and the stop token can be sampled; q is renormalised over them."""


class EvaluationConfig(BaseModel):
    """Section `[evaluation]`: samples from the base model before training and from the final adapter after it."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    samples: int = Field(default=2000, ge=1)
    """Samples per prompt, on-policy, through vLLM."""
    prompts: int = Field(default=20, ge=0)
    """Largest number of prompts evaluated, spread evenly over all prompts. 0: all prompts."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of the engine during evaluation, when no other process works. 0: all cores."""
    limit_s: float = Field(default=7200.0, gt=0.0)
    """Longest time for generating the samples, s."""


class RunConfig(BaseModel):
    """A resolved recipe."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    seed: int = Field(default=0, ge=0)
    """Seed of the run's random numbers."""
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    task: TaskConfig = TaskConfig()
    actors: ActorConfig = ActorConfig()
    rewards: RewardConfig = RewardConfig()
    buffer: BufferConfig = BufferConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe (a file, or a name of deploy/recipes), apply `section.setting=value` overrides, check the result.

    Raises ConfigError with all problems: value, constraint, fix.
    """
    path = find_recipe(recipe)
    try:
        values = tomllib.loads(read_text(path, "recipe"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a valid TOML file: {error}. Fix that line.") from error
    except ValueError as error:  # from read_text; TOMLDecodeError is a ValueError, too
        raise ConfigError(f"{error}.") from error
    for override in overrides:
        _apply(values, override)
    return parse_config(values, source=str(path))


def resumed_config(values: Mapping[str, Any], overrides: Sequence[str], source: str) -> RunConfig:
    """The configuration of an earlier run with `overrides`. ConfigError for changes that its state does not fit."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(changed, override)
    before, after = parse_config(values, source), parse_config(changed, source)
    fixed = [name for name in ("seed", "model", "policy", "task") if getattr(before, name) != getattr(after, name)]
    if (before.learner.objective == "sft") != (after.learner.objective == "sft"):
        raise ConfigError(
            "learner.objective can't change between 'sft' and another one when a run is resumed: its buffer holds "
            "either demonstrations or samples. Start a new run for that."
        )
    for name in ("length_penalty", "adapter"):
        old, new = getattr(before.rewards, name), getattr(after.rewards, name)
        if old != new:
            raise ConfigError(
                f"rewards.{name} can't change from {old!r} to {new!r} when a run is resumed: its buffer holds log R of "
                "the old target, and one string would have two rewards. Start a new run for that. rewards.weights may "
                "change: the buffer holds the terms unweighted."
            )
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} can't change when a run is resumed: adapter and buffer were made for the values in "
            f"{source}. Start a new run for that."
        )
    if after.buffer.url and ":***@" in after.buffer.url:
        raise ConfigError(
            f"{source} does not contain the password of buffer.url = {after.buffer.url!r}. Give it again: "
            "buffer.url=... with the password, or without it and with TRIBUTARY_REDIS_PASSWORD set."
        )
    return after


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """Check plain values against the classes, then across sections. `source` names them in errors."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"{source} is not a valid configuration:\n" + "\n".join(_explain(e) for e in error.errors())
        ) from error
    config = _with_dtype(config)
    _cross_check(config)
    return config


def _with_dtype(config: RunConfig) -> RunConfig:
    """`config` with the number format that `model.dtype = "auto"` stands for; a run's folder keeps that."""
    if config.model.dtype != "auto":
        return config
    dtype = "bfloat16" if config.actors.gpus else "float32"
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


def shown_config(config: RunConfig) -> dict[str, Any]:
    """The resolved recipe as plain values to show and to write, without the password that a Redis URL may hold."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.buffer.url:
        values["buffer"]["url"] = redact(config.buffer.url)
    return values


def find_recipe(recipe: str) -> Path:
    """The path itself if it is a file, else deploy/recipes/NAME.toml."""
    if os.path.isfile(recipe):  # Path.is_file raises for a name that is too long or in a closed folder
        return Path(recipe)
    shipped = {
        p.stem: p
        for p in map(Path, map(str, resources.files("deploy").joinpath("recipes").iterdir()))
        if p.suffix == ".toml"
    }
    if recipe in shipped:
        return shipped[recipe]
    raise ConfigError(
        f"recipe {recipe!r} is neither a file nor a shipped recipe. Give the path of a TOML file, or one of: "
        f"{', '.join(sorted(shipped))}."
    )


def _cross_check(config: RunConfig) -> None:
    """Check the rules that involve more than one section."""
    problems = []
    batch, capacity = config.learner.batch_size, config.buffer.capacity
    if batch > capacity:
        problems.append(
            f"learner.batch_size = {batch} is larger than buffer.capacity = {capacity}: every batch would repeat rows. "
            "Raise buffer.capacity or lower learner.batch_size."
        )
    problems += _rate_limiter_problems(config)
    problems += _learner_problems(config)
    if config.policy.min_actions > config.policy.max_actions:
        problems.append(
            f"policy.min_actions = {config.policy.min_actions} is above "
            f"policy.max_actions = {config.policy.max_actions}. Lower it."
        )
    if config.policy.max_actions >= config.actors.max_model_len:
        problems.append(
            f"policy.max_actions = {config.policy.max_actions} leaves no room for a prompt in "
            f"actors.max_model_len = {config.actors.max_model_len}. Raise actors.max_model_len."
        )
    if config.learner.publish_every > config.learner.steps:
        problems.append(
            f"learner.publish_every = {config.learner.publish_every} is above "
            f"learner.steps = {config.learner.steps}: actors would only ever see the base model. Lower it."
        )
    if config.actors.tensor_parallel > 1 and config.actors.gpus not in (0.0, 1.0):
        problems.append(
            f"actors.tensor_parallel = {config.actors.tensor_parallel} spreads an engine over whole GPUs, but "
            f"actors.gpus = {config.actors.gpus:g}. Set actors.gpus to 1 (0 on CPUs)."
        )
    if config.actors.gpus and config.actors.engine == "vllm" and config.model.dtype == "float32":
        problems.append(
            f"model.dtype = 'float32' with actors.gpus = {config.actors.gpus:g}: vLLM's LoRA kernels for GPUs take "
            "16-bit numbers only. Set model.dtype to bfloat16, or to auto."
        )
    names = [b.name for b in config.actors.behaviours]
    if len(set(names)) < len(names):
        problems.append(
            f"actors.behaviours has duplicate names: {', '.join(names)}. Give each behaviour a name of its own."
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _rate_limiter_problems(config: RunConfig) -> list[str]:
    """One draw and one push must fit into the band of samples per insert, or one side would wait forever."""
    rate, band = config.buffer.samples_per_insert, config.buffer.advanced.samples_per_insert_band
    needed = max(config.learner.batch_size, math.ceil(rate * config.actors.push_size))
    if rate and band < 2 * needed:
        return [
            f"buffer.advanced.samples_per_insert_band = {band:g} is too narrow: a batch draws "
            f"{config.learner.batch_size} rows, and each of the {config.actors.push_size} trajectories of a push "
            f"allows {rate:g} rows. Raise it to {2 * needed} or more."
        ]
    return []


def _learner_problems(config: RunConfig) -> list[str]:
    """Problems of the learner's section, alone and together with the others."""
    learner, problems = config.learner, []
    if learner.batch_size % learner.ranks:
        problems.append(
            f"learner.batch_size = {learner.batch_size} can't be divided among learner.ranks = {learner.ranks}: "
            "make it a multiple."
        )
    if learner.ranks > 1 and 0 < learner.gpus < 1:
        problems.append(
            f"learner.ranks = {learner.ranks} with learner.gpus = {learner.gpus:g}: ranks can't share a "
            "GPU. Give each a whole one, or use one rank."
        )
    subtb_lambda = learner.advanced.subtb_lambda
    if learner.objective == "subtb" and config.policy.max_actions * math.log(subtb_lambda) > MAX_LOG_WEIGHT:
        problems.append(
            f"learner.advanced.subtb_lambda = {subtb_lambda:g} to the power of "
            f"policy.max_actions = {config.policy.max_actions} overflows. Lower it; 1 gives all pairs the same weight."
        )
    if config.policy.min_actions and learner.objective in ("subtb", "tb", "db"):
        problems.append(
            f"learner.objective = {learner.objective!r} compares prefixes of one string, and with "
            f"policy.min_actions = {config.policy.min_actions} strings that differ before that length share no "
            "terminal prefix: their relative probabilities would not be learned. Use 'group_subtb' or 'vargrad', or "
            "set policy.min_actions to 0."
        )
    return problems


def _apply(values: dict[str, Any], override: str) -> None:
    """Put `section.setting=value` into `values`. The value is read as TOML, or as a string if it is not valid TOML."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r} must have the form section.setting=value, such as learner.steps=50.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a section.")
    values[parts[-1]] = value


def _explain(error: Mapping[str, Any]) -> str:
    """One line for one pydantic problem: field, value, constraint, fix."""
    *section, name = error["loc"] or ("recipe",)
    where = ".".join(map(str, (*section, name)))
    if error["type"] == "extra_forbidden":
        if name in _advanced_fields(section):
            table = ".".join(map(str, (*section, "advanced")))
            return f"  {where} is now {table}.{name}. Move it into the table [{table}]."
        fields = ", ".join(sorted(_model_at(section).model_fields))
        return f"  {where} = {error['input']!r} is not a setting. Settings: {fields}. Fix the spelling or remove it."
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    if isinstance(error["input"], Mapping) or where.endswith("url"):
        return f"  {where}: {message}."  # the input is a whole section, or it may hold a password
    return f"  {where} = {error['input']!r}: {message}. Fix the value."


def _advanced_fields(section: Sequence[Any]) -> Collection[str]:
    advanced = _model_at(section).model_fields.get("advanced")
    return _model_at([*section, "advanced"]).model_fields if advanced else ()


def _model_at(section: Sequence[Any]) -> type[BaseModel]:
    """The class of a section; integers, the positions in a list of tables, are skipped."""
    model: Any = RunConfig
    for part in section:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")), annotation)
    return model  # type: ignore[no-any-return]
