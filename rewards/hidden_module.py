"""Explains a user's module that can't be imported, because another one has its name."""

import sys
from pathlib import Path


def explain_hidden_file(module_name: str) -> str:
    """A sentence if the working folder has a file of this module, and another one was imported; else ""."""
    file = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
    imported = getattr(sys.modules.get(module_name), "__file__", None)
    if imported is None or not file.is_file() or Path(imported).resolve() == file.resolve():
        return ""
    return f" {file} is hidden by the installed module {module_name!r} ({imported}): rename your file."
