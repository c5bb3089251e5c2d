"""`tributary recipes` and `tributary init`: what is there to train, and a task of one's own to begin with."""

import re
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from buffer.errors import ConfigError
from deploy.formatting import console


def recipes() -> None:
    """List the recipes that are shipped, with the file of each."""
    from rich.markup import escape
    from rich.table import Table

    from deploy.config import shipped_recipes

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, path in shipped_recipes().items():
        lines = takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
        about = " ".join(line.removeprefix("#").strip() for line in lines)
        table.add_row(name, escape(re.split(r"[.:] |[.:]$", about)[0]))
    console.print(table)
    console.print(
        f"\ntributary train NAME, or copy one and change it: {next(iter(shipped_recipes().values())).parent}",
        soft_wrap=True,
    )


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the task: letters, digits and underscores.")],
) -> None:
    """Write NAME.py, a task of your own, and NAME.toml, a recipe that trains it, into this folder."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"NAME = {name!r} must be lower-case letters, digits and underscores, as a module's name is.")
    files = {Path(f"{name}.py"): _starter("task.py.txt"), Path(f"{name}.toml"): _starter("recipe.toml")}
    if there := [str(path) for path in files if path.exists()]:
        raise ConfigError(f"{' and '.join(there)} exist already: choose another NAME, or move them away.")
    for path, text in files.items():
        path.write_text(text.replace("my_task:", f"{name}:"), "utf-8")
    console.print(
        f"Written: {name}.py and {name}.toml. Next:\n  tributary validate {name}.toml\n  tributary train {name}.toml"
    )


def _starter(file: str) -> str:
    return resources.files("deploy").joinpath("starter", file).read_text("utf-8")
