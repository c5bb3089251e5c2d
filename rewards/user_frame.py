"""The line of a user's own code at which an exception arose. Imports nothing of ours."""

import os
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).resolve().parents[1])
_PACKAGES = ("actors", "buffer", "deploy", "learner", "lm", "rewards")
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
MAX_SOURCE = 80


def place_of(error: BaseException) -> str:
    """ " (FILE, line 7: SOURCE)" of the last frame outside Python's libraries and this project; "" without one."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_of_the_user(f.filename)]
    return "".join(f" ({f.filename}, line {f.lineno}: {(f.line or '').strip():.{MAX_SOURCE}})" for f in frames[-1:])


def _is_of_the_user(file: str) -> bool:
    ours = tuple(os.path.join(_OURS, package) + os.sep for package in _PACKAGES)
    return not file.startswith(("<", *ours, *(folder + os.sep for folder in _LIBRARIES)))
