"""A JSON schema (draft 2020-12): the text must be one JSON value that fits it, and nothing else.

schema {type = "object", required = ["name"]}     '{"name": "Ada"}'  yes     '{"name": "Ada"'  no     "NaN"  not JSON

If the stop token is the last character of the value, such as "}", set the task's `stop_text` to it: a constraint reads
the text without the stop token.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from rewards.constraints.settings import Constraint, ConstraintSettings, from_predicate
from rewards.text_file import read_text

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PROBES: tuple[Any, ...] = (None, 0, "", [], {})


class JsonSchema(ConstraintSettings):
    """{kind = "json_schema", schema = {...}}, or with `file`"""

    kind: Literal["json_schema"]
    schema_: dict[str, JsonValue] | None = None
    """Called `schema` in a recipe."""
    file: str | None = None
    """Path of a JSON file with the schema, in place of `schema`."""

    model_config = ConstraintSettings.model_config | {"alias_generator": lambda name: name.rstrip("_")}

    def build(self) -> Constraint:
        """Raise ValueError for an invalid schema and for references to other documents: nothing is downloaded."""
        schema = self._read()
        _check(schema)
        fits = Draft202012Validator(schema, registry=Registry()).is_valid

        def holds(text: str) -> bool:
            try:
                return bool(fits(json.loads(text, parse_constant=_reject_constant)))
            except (ValueError, RecursionError):  # not JSON, or nested too deeply for Python
                return False

        return from_predicate(holds)

    def _read(self) -> object:
        if (self.schema_ is None) == (self.file is None):
            raise ValueError("a JSON schema needs schema = {...} or file = 'PATH': give one of the two")
        if self.file is None:
            return self.schema_
        text = read_text(self.file, "file")
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"file = {self.file!r} is not valid JSON: {error}. Fix it") from error


def _check(schema: object) -> None:
    if not isinstance(schema, dict) or schema.get("$schema", DIALECT) != DIALECT:
        raise ValueError(f"invalid JSON schema: {schema!r:.80} must be a JSON object for {DIALECT}. Rewrite it")
    try:
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)  # patterns too
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _references(schema):
            resolver.lookup(reference)
        validator = Draft202012Validator(schema, registry=Registry())
        for value in PROBES:
            validator.is_valid(value)
    except SchemaError as error:
        raise ValueError(f"invalid JSON schema: {error.message:.200}. Fix it") from error
    except Unresolvable as error:
        raise ValueError(
            f"the schema refers to {error.ref!r}, which it does not contain. Put it under $defs; nothing is downloaded"
        ) from error
    except RecursionError:
        raise ValueError("the schema refers to itself without end. Put a property or an item in between") from None


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (v for k, v in schema.items() if k in ("$ref", "$dynamicRef") and isinstance(v, str))
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _references(part)


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
