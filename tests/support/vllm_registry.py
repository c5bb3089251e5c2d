"""Which architectures vLLM runs with LoRA, read from the source of the installed vLLM without importing it."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

_MODELS = "vllm.model_executor.models"


def architectures_without_lora() -> set[str]:
    """Text models of vLLM's registry whose class does not have SupportsLoRA, and those that it no longer runs."""
    tables = _tables()
    without = {
        name
        for name, (module, cls) in tables["_TEXT_GENERATION_MODELS"].items()
        if not _has_lora(module if module.startswith("vllm.") else f"{_MODELS}.{module}", cls)
    }
    return without | set(tables["_PREVIOUSLY_SUPPORTED_MODELS"])


def _tables() -> dict[str, Any]:
    """The literal dictionaries of registry.py."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in _source(f"{_MODELS}.registry").body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Dict)
        and None not in node.value.keys
    }


@cache
def _source(module: str) -> ast.Module:
    """The syntax tree of a module, such as vllm.model_executor.models.llama."""
    return ast.parse(_path(module).read_text())


def _path(module: str) -> Path:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parents[1].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")


def _has_lora(module: str, name: str) -> bool:
    """Whether a class or one that it derives from is SupportsLoRA."""
    if name == "SupportsLoRA":
        return True
    tree = _source(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return any(_has_lora(module, base.id) for base in node.bases if isinstance(base, ast.Name))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = _absolute(module, node)
            for alias in node.names:
                if (alias.asname or alias.name) == name and origin.startswith("vllm."):
                    return _has_lora(origin, alias.name)
    return False


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The dotted name of the module that an import statement of `module` names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    package = parts if _path(module).name == "__init__.py" else parts[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)
