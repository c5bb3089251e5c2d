"""Runs the code cells of a notebook in one process, as Jupyter does: `python -m tests.support.notebook FILE [OLD=NEW]`.

Names live in `__main__`, and the source of each cell is kept where `inspect` finds it. An expression at the end of a
cell is printed. OLD is replaced by NEW in every cell.
"""

import ast
import json
import linecache
import sys
from collections.abc import Mapping
from pathlib import Path


def run_cell(source: str, file: str, names: dict[str, object]) -> object:
    """Run one cell; returns the value of the expression at its end, or None."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    tree = ast.parse(source)
    shown = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    exec(compile(tree, file, "exec"), names)  # noqa: S102
    return None if shown is None else eval(compile(shown, file, "eval"), names)  # noqa: S307


def run_notebook(path: Path, replacements: Mapping[str, str], names: dict[str, object]) -> None:
    """Run all code cells."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        for old, new in replacements.items():
            source = source.replace(old, new)
        value = run_cell(source, f"<cell {number}>", names)
        if value is not None:
            sys.stdout.write(f"Out[{number}]: {value}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    run_notebook(Path(sys.argv[1]), dict(pair.split("=", 1) for pair in sys.argv[2:]), {"__name__": "__main__"})
