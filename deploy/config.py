"""The configuration of a run, read from a recipe and checked across packages here and nowhere else.

A recipe is a TOML file; `section.setting=value` on the command line overrides it; the resolved form is written into the
run's folder.
"""

import copy
import difflib
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from buffer.errors import ConfigError
from buffer.server.connect import redact
from deploy.config_checks import cross_section_problems
from deploy.config_sections import EvaluationConfig, ModelConfig, PolicyConfig, RunConfig
from learner.config import WHOLE_STRING_OBJECTIVES
from rewards.text_file import read_text

__all__ = [
    "EvaluationConfig",
    "ModelConfig",
    "PolicyConfig",
    "RunConfig",
    "find_recipe",
    "load_recipe",
    "parse_config",
    "resumed_config",
    "shipped_recipes",
    "shown_config",
]


def load_recipe(recipe: str, overrides: Sequence[str] = (), sections: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a recipe (a file, or a name of deploy/recipes), apply `section.setting=value` overrides and settings given
    as `sections` (section -> setting -> value), check the result.

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
    merged = _merge(values, sections or {})
    if path.absolute() not in shipped_recipes().values() and isinstance(task := merged.get("task", {}), Mapping):
        merged["task"] = {"folder": str(path.absolute().parent), **task}
    return parse_config(merged, str(path), overrides)


def resumed_config(
    values: Mapping[str, Any], overrides: Sequence[str], source: str, sections: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration of an earlier run with `overrides` and `sections`. ConfigError for changes that its state does
    not fit."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply(changed, override)
    changed = _merge(changed, sections or {})
    before, after = parse_config(values, source), parse_config(changed, source, overrides)
    fixed = [name for name in ("seed", "model", "policy") if getattr(before, name) != getattr(after, name)]
    if before.task.model_copy(update={"folder": after.task.folder}) != after.task:  # a project may have moved
        fixed.append("task")
    if (before.learner.objective == "sft") != (after.learner.objective == "sft"):
        raise ConfigError(
            "learner.objective can't change between 'sft' and another one when a run is resumed: its buffer holds "
            "either demonstrations or samples. Start a new run for that."
        )
    old, new = before.learner.objective, after.learner.objective
    if old in WHOLE_STRING_OBJECTIVES and new not in WHOLE_STRING_OBJECTIVES:
        raise ConfigError(
            f"learner.objective can't change from {old!r} to {new!r} when a run is resumed: the strings of its buffer "
            f"may be scored whole alone, and {new!r} reads log R of their prefixes too. Start a new run for that."
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


def parse_config(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Check plain values against the classes, then across sections. `source`, or the override that set a value, names
    it in errors."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        causes = [_override_of(e["loc"], overrides) for e in error.errors()]
        where = source if None in causes else f"override {' '.join(map(repr, dict.fromkeys(causes)))}"
        raise ConfigError(
            f"{where} is not a valid configuration:\n" + "\n".join(_explain(e) for e in error.errors())
        ) from error
    config = _with_dtype(config)
    if problems := cross_section_problems(config):
        raise ConfigError("\n".join(problems))
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


def shipped_recipes() -> dict[str, Path]:
    """The recipes in deploy/recipes, by name."""
    files = map(Path, map(str, resources.files("deploy").joinpath("recipes").iterdir()))
    return {path.stem: path for path in sorted(files) if path.suffix == ".toml"}


def find_recipe(recipe: str) -> Path:
    """The path itself if it is a file, else deploy/recipes/NAME.toml."""
    if os.path.isfile(recipe):  # Path.is_file raises for a name that is too long or in a closed folder
        return Path(recipe)
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    raise ConfigError(
        f"recipe {recipe!r} is neither a file nor a shipped recipe.{_did_you_mean(recipe, shipped)} Give the path of a "
        f"TOML file, or one of: {', '.join(sorted(shipped))}."
    )


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


def _override_of(location: Sequence[Any], overrides: Sequence[str]) -> str | None:
    """The override that set the value at `location`, or a part of it; None for a value of the recipe."""
    place = ".".join(map(str, location))
    for override in overrides:
        name = override.partition("=")[0].strip()
        if f"{place}.".startswith(f"{name}.") or f"{name}.".startswith(f"{place}."):
            return override
    return None


def _did_you_mean(name: str, names: Collection[str]) -> str:
    """ " Did you mean 'NAME'?" where one of `names` is close; else "" ."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _merge(values: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `sections` in their place, table by table; another task does not get the old options."""
    task = sections.get("task")
    if isinstance(task, Mapping) and "name" in task:
        values = {name: value for name, value in values.items() if name != "task"}
    merged = dict(values)
    for name, value in sections.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: Mapping[str, Any]) -> str:
    """One line for one pydantic problem: field, value, constraint, fix."""
    *section, name = error["loc"] or ("recipe",)
    where = ".".join(map(str, (*section, name)))
    if error["type"] == "extra_forbidden":
        if name in _advanced_fields(section):
            table = ".".join(map(str, (*section, "advanced")))
            return f"  {where} is now {table}.{name}. Move it into the table [{table}]."
        fields = sorted(_model_at(section).model_fields)
        hint = _did_you_mean(str(name), fields)
        return f"  {where} = {error['input']!r} is not a setting.{hint} Settings: {', '.join(fields)}."
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
