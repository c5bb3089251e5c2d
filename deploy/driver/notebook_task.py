"""A task class of a notebook or a script as a file that every process of a run can import.

Actors, reward workers and later commands build the task by its name, and a class of `__main__` has none that they could
import. So its source is written to a file, with the imports, functions, classes and constants of the notebook that it
uses. Nothing is pickled: the file can be read, and the run can be resumed from the command line.
"""

import ast
import builtins
import hashlib
import importlib
import linecache
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from buffer.errors import ConfigError

MAIN = "__main__"


def task_name(cls: type, folder: Path) -> str:
    """The name of a task class for a recipe: `module:Class`, or `FILE.py:Class` with a file written into `folder`.

    ConfigError for a class whose source is not known, or that uses an object of the notebook that a file can't contain.
    """
    if cls.__module__ != MAIN:
        return f"{cls.__module__}:{cls.__qualname__}"
    text = _ModuleText(cls).text()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.absolute() / f"{cls.__name__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.py"
    file.write_text(text)
    return f"{file}:{cls.__name__}"


class _ModuleText:
    """The parts of a module, each behind those that it uses."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._names: set[str] = set()
        self._imports: list[str] = []
        self._parts: list[str] = []

    def text(self) -> str:
        """The source of the class and of everything that it uses."""
        self._add_source(self._cls)
        about = f'"""The task {self._cls.__name__}, written by tributary.train from a notebook or a script."""'
        return "\n\n\n".join([about, "\n".join(sorted(self._imports)), *self._parts]) + "\n"

    def _add_source(self, value: type | FunctionType) -> None:
        """Add a class or a function of the notebook, behind the names that it uses."""
        self._names.add(value.__name__)
        function = next(_functions(value), None)
        source = function and _definition(value.__name__, function.__code__)
        if function is None or not source:
            raise ConfigError(
                f"{value.__qualname__} has no source here: only a notebook or a file keeps one, of functions and of "
                "classes with methods at its top level. Put the task into a .py file and import it."
            )
        for name in sorted(_used_names(ast.parse(source)) - self._names):
            if name in function.__globals__:
                self._names.add(name)
                self._add(name, function.__globals__[name])
        self._parts.append(source)

    def _add(self, name: str, value: Any) -> None:
        """Add what a name of the notebook stands for."""
        if isinstance(value, (FunctionType, type)) and value.__module__ == MAIN:
            self._add_source(value)
            if value.__name__ != name:
                self._parts.append(f"{name} = {value.__name__}")
        elif statement := _import_of(name, value):
            self._imports.append(statement)
        elif _is_literal(value):
            self._parts.append(f"{name} = {value!r}")
        else:
            raise ConfigError(
                f"{self._cls.__name__} uses {name!r} of the notebook, a {type(value).__name__}, which can't be written "
                "into a file of the run. Make it inside the class, or put the task into a .py file and import it."
            )


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that a class defines itself, or the function."""
    if isinstance(value, FunctionType):
        yield value
        return
    for member in vars(value).values():
        inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        inner = inner.func if isinstance(inner, cached_property) else inner
        if isinstance(inner, FunctionType) and inner.__qualname__ == f"{value.__qualname__}.{inner.__name__}":
            yield inner


def _definition(name: str, code: CodeType) -> str:
    """The source of the class or function `name` at the top level of the cell or file of `code`; "" if not known."""
    lines = linecache.getlines(code.co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return ""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first <= code.co_firstlineno <= (node.end_lineno or first):
                return "".join(lines[first - 1 : node.end_lineno]).rstrip()
    return ""


def _used_names(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name for name in names if not hasattr(builtins, name)}


def _import_of(name: str, value: Any) -> str:
    """The statement that imports `value` as `name`; "" if it has no name in a module."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    module = getattr(value, "__module__", None)
    attribute = getattr(value, "__qualname__", None) or getattr(value, "_name", None) or getattr(value, "__name__", "")
    if not isinstance(module, str) or module == MAIN or not attribute:
        return ""
    try:
        known = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return ""
    return f"from {module} import {attribute} as {name}" if known is value else ""


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


Sections = Mapping[str, Mapping[str, Any]]
"""Section of a recipe -> setting -> value."""


def task_section(task: type | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Section [task] of a recipe, from a class or from settings whose `name` may be a class."""
    settings = {"name": task} if isinstance(task, type) else dict(task)
    name = settings.get("name")
    return settings | {"name": task_name(name, folder)} if isinstance(name, type) else settings
