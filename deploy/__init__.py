"""Build the rooms, connect them, run them. The only package that imports Ray.

Importing it puts the user's working folder last on the import path, because a person may well have a rewards.py there.
Every process imports it before the other packages: the command, a job that was submitted, and Ray's workers, in which
deploy/cluster/placement.py puts ROOT first.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PACKAGES = ("actors", "buffer", "deploy", "learner", "lm", "rewards")
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds Tributary's packages."""


def import_path(entries: Sequence[str], working_folder: Path) -> list[str]:
    """`entries` of sys.path in an order that finds Tributary's own packages, with `working_folder` at the end.

    Other folders that hold a module of the same name, such as one in PYTHONPATH, come behind ROOT, too.
    """
    if working_folder == ROOT:
        return [*entries, *([] if str(ROOT) in entries else [str(ROOT)])]
    others = [entry for entry in entries if Path(entry).resolve() != working_folder]
    hiding = [entry for entry in others if _hides_package(Path(entry))]
    first = [entry for entry in others if entry not in hiding]
    return [*first, *([] if str(ROOT) in first else [str(ROOT)]), *hiding, str(working_folder)]


def _hides_package(folder: Path) -> bool:
    """True if the folder holds a module that is not Tributary's and has the name of one of its packages."""
    if folder.resolve() == ROOT:
        return False
    names = [name for package in PACKAGES for name in (f"{package}.py", f"{package}/__init__.py")]
    return any(os.path.isfile(folder / name) for name in names)  # unlike Path.is_file, false in a closed folder


with suppress(OSError):  # the working folder was deleted or is closed
    sys.path[:] = import_path(sys.path, Path.cwd())
