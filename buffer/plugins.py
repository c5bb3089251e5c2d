"""Tasks, objectives and rewards that installed packages bring, by the names that recipes then use.

A package names them in its metadata, such as in its pyproject.toml:

    [project.entry-points."tributary.rewards"]
    polite = "my_package.rewards:polite"
"""

from importlib.metadata import entry_points
from typing import Literal


def installed(kind: Literal["tasks", "objectives", "rewards"]) -> dict[str, str]:
    """Name -> module:attribute."""
    return {entry.name: entry.value for entry in entry_points(group=f"tributary.{kind}")}
