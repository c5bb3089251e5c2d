"""A run's whole configuration: one class a package, composed here, checked across packages here and nowhere else.

A recipe is a TOML file; `section.field=value` on the command line overrides it; the resolved form is written into the
run's folder.
"""

import copy
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.config import ActorConfig
from buffer.config import BufferConfig
from buffer.errors import ConfigError
from buffer.server.connect import redact
from learner.config import LearnerConfig
from rewards.config import RewardConfig, TaskConfig

LARGEST_LOG_WEIGHT = 69.0
"""Of a pair of prefixes, so that fp32 can hold their squares' sum: log 1e30."""


class ModelConfig(BaseModel):
    """Section `[model]`: the base model and its adapter."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = "smollm2-135m-instruct"
    """A local folder, a name that `tributary model get` knows, or a hub id that is in the local hub cache."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights. On CPUs without AVX512-bf16, bfloat16 is 3x slower than float32."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4: the policy's base weights in 4 bits (QLoRA), by bitsandbytes; on GPUs. Rewards keep the whole weights."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    lora_alpha: int = Field(default=16, ge=1)
    lora_targets: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)
    """Names of the linear layers that get an adapter."""


class PolicyConfig(BaseModel):
    """Section `[policy]`: what a string may be."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    stop: str = "."
    """Text of the stop token ⊤; must be one token of the model's vocabulary."""
    max_actions: int = Field(default=32, ge=1)
    """Stopping is forced after this many tokens."""
    min_actions: int = Field(default=0, ge=0)
    """The stop token is masked before this many."""
    allowed_tokens: list[str] | None = None
    """When given, only these tokens (and the stop) can be sampled; q is renormalised over them."""


class EvaluationConfig(BaseModel):
    """Section `[evaluation]`: samples of the base model before and of the final adapter after training."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    samples: int = Field(default=2000, ge=1)
    """Per prompt, on-policy, through vLLM."""
    prompts: int = Field(default=20, ge=0)
    """At most so many prompts are judged, spread evenly over all; 0: all of them."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of the engine while evaluating, when nobody else works; 0: all cores."""
    limit_s: float = Field(default=7200.0, gt=0.0)
    """Longest that drawing the samples may take, s."""


class RunConfig(BaseModel):
    """A recipe, resolved."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=0, ge=0)
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    task: TaskConfig = TaskConfig()
    actors: ActorConfig = ActorConfig()
    rewards: RewardConfig = RewardConfig()
    buffer: BufferConfig = BufferConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe (a file, or a name under deploy/recipes), apply `section.field=value` overrides, check it all.

    Raises ConfigError with every problem found: value, rule, remedy.
    """
    path = find_recipe(recipe)
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML file: {error}. Mend that line.") from error
    for override in overrides:
        _apply(values, override)
    return parse_config(values, source=str(path))


def resumed_config(values: Mapping[str, Any], overrides: Sequence[str], source: str) -> RunConfig:
    """The configuration of an earlier run with `overrides`. ConfigError for what its state would not fit any more."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(changed, override)
    before, after = parse_config(values, source), parse_config(changed, source)
    fixed = [name for name in ("seed", "model", "policy", "task") if getattr(before, name) != getattr(after, name)]
    if (before.learner.objective == "sft") != (after.learner.objective == "sft"):
        raise ConfigError(
            "learner.objective can't change between 'sft' and another one when a run is resumed: its buffer holds "
            "given strings, or samples. Start another run for that."
        )
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} can't change when a run is resumed: adapter and buffer were made for what {source} "
            "says. Start another run for that."
        )
    if after.buffer.url and ":***@" in after.buffer.url:
        raise ConfigError(
            f"{source} does not keep the password of buffer.url = {after.buffer.url!r}. Give it again: "
            "buffer.url=... with the password, or without it and TRIBUTARY_REDIS_PASSWORD set."
        )
    return after


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """Check plain values against the classes, then across sections."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source} does not fit:\n" + "\n".join(_explain(e) for e in error.errors())) from error
    _cross_check(config)
    return config


def shown_config(config: RunConfig) -> dict[str, Any]:
    """The resolved recipe for people and files: without the password that a Redis URL may hold."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.buffer.url:
        values["buffer"]["url"] = redact(config.buffer.url)
    return values


def find_recipe(recipe: str) -> Path:
    """A path as it is, else deploy/recipes/NAME.toml."""
    if Path(recipe).is_file():
        return Path(recipe)
    shipped = {
        p.stem: p
        for p in map(Path, map(str, resources.files("deploy").joinpath("recipes").iterdir()))
        if p.suffix == ".toml"
    }
    if recipe in shipped:
        return shipped[recipe]
    raise ConfigError(
        f"recipe {recipe!r} is neither a file nor shipped. Shipped: {', '.join(sorted(shipped))}; "
        "or give the path of a TOML file."
    )


def _cross_check(config: RunConfig) -> None:
    """Rules that more than one section takes part in."""
    problems = []
    batch, capacity = config.learner.batch_size, config.buffer.capacity
    if batch > capacity:
        problems.append(
            f"learner.batch_size = {batch} is larger than buffer.capacity = {capacity}: every batch would repeat rows. "
            "Raise buffer.capacity or lower learner.batch_size."
        )
    problems += _pace_problems(config)
    problems += _learner_problems(config)
    if config.policy.min_actions > config.policy.max_actions:
        problems.append(
            f"policy.min_actions = {config.policy.min_actions} is above "
            f"policy.max_actions = {config.policy.max_actions}: lower it."
        )
    if config.policy.max_actions >= config.actors.max_model_len:
        problems.append(
            f"policy.max_actions = {config.policy.max_actions} leaves no room for a prompt in "
            f"actors.max_model_len = {config.actors.max_model_len}: raise the latter."
        )
    if config.learner.publish_every > config.learner.steps:
        problems.append(
            f"learner.publish_every = {config.learner.publish_every} is above "
            f"learner.steps = {config.learner.steps}: actors would only ever see the base model."
        )
    if config.actors.tensor_parallel > 1 and config.actors.gpus not in (0.0, 1.0):
        problems.append(
            f"actors.tensor_parallel = {config.actors.tensor_parallel} spreads an engine over whole GPUs, and "
            f"actors.gpus = {config.actors.gpus:g}. Set actors.gpus to 1 (0 on CPUs)."
        )
    names = [b.name for b in config.actors.behaviours]
    if len(set(names)) < len(names):
        problems.append(f"actors.behaviours has names twice: {', '.join(names)}. Give each its own.")
    if problems:
        raise ConfigError("\n".join(problems))


def _pace_problems(config: RunConfig) -> list[str]:
    """One draw or one push must fit into the band of samples per insert, or a side waits for ever."""
    rate, band = config.buffer.samples_per_insert, config.buffer.samples_per_insert_band
    needed = max(config.learner.batch_size, math.ceil(rate * config.actors.push_size))
    if rate and band < 2 * needed:
        return [
            f"buffer.samples_per_insert_band = {band:g} is less than two steps of one side: a batch draws "
            f"{config.learner.batch_size} rows, a push of {config.actors.push_size} allows {rate:g} rows each. Raise "
            f"it to {2 * needed} or more."
        ]
    return []


def _learner_problems(config: RunConfig) -> list[str]:
    """What the learner's section can't have together with the others."""
    learner, problems = config.learner, []
    if learner.batch_size % learner.ranks:
        problems.append(
            f"learner.batch_size = {learner.batch_size} can't be shared by learner.ranks = {learner.ranks}: "
            "make it a multiple."
        )
    if learner.ranks > 1 and 0 < learner.gpus < 1:
        problems.append(
            f"learner.ranks = {learner.ranks} with learner.gpus = {learner.gpus:g}: ranks can't share a "
            "GPU. Give each a whole one, or take one rank."
        )
    if learner.objective == "subtb" and config.policy.max_actions * math.log(learner.subtb_lambda) > LARGEST_LOG_WEIGHT:
        problems.append(
            f"learner.subtb_lambda = {learner.subtb_lambda:g} to the power of "
            f"policy.max_actions = {config.policy.max_actions} overflows. Lower it; 1 weighs all pairs alike."
        )
    if config.policy.min_actions and learner.objective in ("subtb", "tb", "db"):
        problems.append(
            f"learner.objective = {learner.objective!r} compares prefixes of one string, and with "
            f"policy.min_actions = {config.policy.min_actions} strings that part before it share none: how much each "
            "beginning deserves would not be learned. Use 'group_subtb' or 'vargrad', or set min_actions to 0."
        )
    return problems


def _apply(values: dict[str, Any], override: str) -> None:
    """Put `section.field=value` into `values`; the value is read as TOML, or as a string where it is none."""
    name, found, text = override.partition("=")
    parts = name.strip().split(".")
    if not found or not all(parts):
        raise ConfigError(f"override {override!r} must have the form section.field=value, such as learner.steps=50.")
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
    """One line for one pydantic problem: field, value, rule, remedy."""
    where = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        known = ", ".join(_known_fields(error["loc"][:-1]))
        return f"  {where} = {error['input']!r} is not known here. Known: {known}. Remove it or mend the spelling."
    message = error["msg"].rstrip(".")
    if isinstance(error["input"], Mapping) or where.endswith("url"):
        return f"  {where}: {message}."  # a whole section, or what may hold a password, is not shown
    return f"  {where} = {error['input']!r}: {message}. Give a value that fits."


def _known_fields(loc: Sequence[Any]) -> list[str]:
    """Names of the fields at a place of the configuration."""
    model: Any = RunConfig
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")), annotation)
    return sorted(model.model_fields)
