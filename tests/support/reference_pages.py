"""Write docs/configuration.md from the configuration classes, and docs/cli.md from the commands.

    python -m tests.support.reference_pages

A unit test fails while a page differs from its source.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from actors.config import BehaviourConfig
from deploy.cli import app
from deploy.config import RunConfig

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = "python -m tests.support.reference_pages"

_CONFIGURATION = f"""# Configuration

<!-- Generated from the configuration classes. Do not edit: change a class, then run
`{COMMAND}`. -->

A recipe is a TOML file with the sections below. A setting that the recipe leaves out has its default. On the
command line `section.setting=value` overrides a recipe, such as `learner.steps=500` or
`buffer.advanced.evict=lowest_priority`. Run `tributary validate RECIPE` to check a recipe and to print every
setting with its value.

Settings that few runs change are in a table `advanced` of their section.
"""

_CLI = f"""# Commands

<!-- Generated from the commands. Do not edit: change a command, then run
`{COMMAND}`. -->

`tributary COMMAND --help` prints the same in a terminal. Errors end with exit code 2 and one message that
states the bad value, the constraint and the fix.
"""


def configuration_page() -> str:
    """Every setting with its default, its allowed values and its meaning: a table per section."""
    seed = {"seed": RunConfig.model_json_schema()["properties"]["seed"]}
    parts = [_CONFIGURATION, "## Top level", _table(_SETTING_COLUMNS, _setting_rows(RunConfig, seed))]
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.default, BaseModel):
            parts += _section(name, type(field.default))
        if name == "actors":
            parts += _section("actors.behaviours", BehaviourConfig, "###", "[[{}]]")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [_CLI]
    for path, command in _commands("tributary", typer.main.get_command(app)):
        parts += [f"## `{path}`", inspect.cleandoc(command.help or "").replace("\b\n", "")]
        visible = [parameter for parameter in command.params if not parameter.hidden]
        if visible:
            parts.append(_table(("argument or option", "default", "meaning"), map(_parameter_row, visible)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


PAGES = {"configuration.md": configuration_page, "cli.md": cli_page}
_SETTING_COLUMNS = ("setting", "default", "values", "meaning")


def _section(name: str, model: type[BaseModel], mark: str = "##", brackets: str = "[{}]") -> Iterator[str]:
    """Heading, sentence and table of a section, then those of its advanced settings."""
    sentence = " ".join(inspect.getdoc(model).split()).partition(": ")[2]  # type: ignore[union-attr]
    settings = dict(model.model_json_schema()["properties"])
    advanced = settings.pop("advanced", None)
    yield f"{mark} `{brackets.format(name)}`"
    yield sentence[0].upper() + sentence[1:]
    yield _table(_SETTING_COLUMNS, _setting_rows(model, settings))
    if advanced:
        yield from _section(f"{name}.advanced", type(model.model_fields["advanced"].default), "###")


def _setting_rows(model: type[BaseModel], settings: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, schema in settings.items():
        default = model.model_fields[name].get_default(call_default_factory=True)
        shown = "required" if model.model_fields[name].is_required() else "unset" if default is None else None
        yield f"`{name}`", shown or f"`{_toml(default)}`", _values(schema), schema["description"]


def _values(schema: Mapping[str, Any]) -> str:
    """The type and the constraint of a setting."""
    if "anyOf" in schema:
        return ", or ".join(_values(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        items = schema["items"].get("type")
        return f"list of {items}s" if items else "list of tables"
    if schema["type"] == "object":
        values = schema["additionalProperties"].get("type", "value")
        return f"table of name = {values}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = ", ".join(f"{sign} {schema[key]}" for key, sign in limits.items() if key in schema)
    pattern = f"matching `{schema['pattern']}`" if "pattern" in schema else ""
    return " ".join(filter(None, (schema["type"], bounds, pattern)))


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """The leaves under a command, with the words that call them."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _commands(f"{path} {name}", below)
    else:
        yield path, command


def _parameter_row(parameter: Any) -> tuple[str, ...]:
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()) + (" ..." if parameter.nargs == -1 else "")
    elif parameter.is_flag:
        name = "/".join([*parameter.opts, *parameter.secondary_opts])
    else:
        name = f"{'/'.join(parameter.opts)} {parameter.metavar}"
    default = parameter.default
    if parameter.secondary_opts:
        default = parameter.opts[0] if default else parameter.secondary_opts[0]
    default = "" if default in (None, "") or default is False else f"`{default}`"
    return f"`{name}`", "required" if parameter.required else default, parameter.help


def _table(columns: Sequence[str], rows: Iterator[Sequence[str]] | Any) -> str:
    lines = [
        columns,
        ["---"] * len(columns),
        *([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page())
