"""Logs of a run's processes: one line of JSON per record, with the run, the process and the release.

The driver logs to log.jsonl in the run's folder, the other processes to standard error, which Ray keeps in a file for
each process (`worker-*.err` in the session's logs).
"""

import logging
import sys
from collections.abc import MutableMapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from pythonjsonlogger.json import JsonFormatter

_NAME = "tributary"


Log: TypeAlias = logging.LoggerAdapter[logging.Logger]


def process_log(run: str, process: str, file: Path | None = None) -> Log:
    """The log of this process, into `file` or standard error.

    `process` is its role and number, such as actor-0, `run` the name of the run's buffer.
    """
    logger = logging.getLogger(_NAME)
    if not logger.handlers:
        handler = _File(file) if file else logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    role = process.partition("-")[0]
    fields = {"run": run, "role": role, "member": process, "release": version("tributary")}
    return _Adapter(logger, fields)


class _File(logging.FileHandler):
    """Loses the lines for which the disk has no room, without a traceback on the terminal for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        """As in logging, except for errors of the disk."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Adapter(logging.LoggerAdapter[logging.Logger]):
    """Adds its own fields to those of a call."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge both into `extra`."""
        return msg, {**kwargs, "extra": {**(self.extra or {}), **kwargs.get("extra", {})}}
