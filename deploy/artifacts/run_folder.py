"""The folder of a run.

config.toml    the resolved recipe              metrics.jsonl  one row of figures per learner step
adapter/       the newest adapter, PEFT format  summary.json   the result, before and after training
checkpoints/   the learner's newest states      plots/         PNG files
buffer/        data of the run's Redis server   name           name of the run's buffer in Redis
log.jsonl      the driver's log                 lock           held while the run trains
members.json   number of running processes      wanted.json    number of processes requested by `scale`
"""

import fcntl
import json
import os
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import tomli_w
from pydantic import ValidationError

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion
from deploy.artifacts.adapter_folder import CONFIG, WEIGHTS, write_adapter
from deploy.artifacts.adapter_version_file import AdapterVersionFile
from deploy.artifacts.json_files import append_line, read_lines, write_json, write_lines, write_whole

_VERSION, _NAME, _LOCK = "version.json", "name", "lock"


class RunFolder:
    """The files of one run. Build it with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, replace: bool = False) -> Self:
        """An empty run folder. ConfigError if the path is in use; `replace` deletes an earlier run and nothing else.

        A run that failed before its first step is deleted without it."""
        path = path.expanduser().absolute()
        name = f"run-{uuid4().hex[:16]}"
        if path.is_dir() and not path.is_symlink():
            names = {entry.name for entry in path.iterdir()}
            if names and not (replace or cls(path)._is_untrained()):
                raise ConfigError(
                    f"{path} exists already and a run needs a folder of its own. "
                    "Give another with --run, or remove the earlier run with --replace."
                )
            # a project may have a config.toml too; a run also has the metrics.jsonl that `create` makes
            if names and not (names <= _CREATED or {"config.toml", "metrics.jsonl"} <= names):
                raise ConfigError(
                    f"{path} is not the folder of a run (config.toml, metrics.jsonl), so --replace does not delete it. "
                    "Give another folder with --run, or delete it yourself."
                )
            if (path / _NAME).is_file():
                name = cls(path).name  # its buffer in Redis will be cleared and used again
            with cls(path).lock() if names else nullcontext():
                shutil.rmtree(path)
        elif os.path.lexists(path):
            raise ConfigError(f"{path} is a file or a link, and a run needs a folder. Give another with --run.")
        run = cls(path)
        run.plots.mkdir(parents=True)
        write_whole(path / _NAME, f"{name}\n".encode())
        run._metrics.touch()
        return run

    def _is_untrained(self) -> bool:
        """True for the folder of a run that has made no step."""
        name, is_empty = self.path / _NAME, self._metrics.is_file() and not self._metrics.stat().st_size
        kept = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return is_empty and not kept and name.is_file() and name.read_text().startswith("run-")

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run. ConfigError if the folder does not contain one."""
        path = path.expanduser().absolute()
        if not (path / "config.toml").is_file():
            raise ConfigError(
                f"{path} is not the folder of a run: it has no config.toml. Give another with --run, or start a run: "
                f"tributary train demo --run {path}"
            )
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the run's buffer in Redis; it stays when the folder is moved. ConfigError if the file is missing."""
        try:
            return (self.path / _NAME).read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"{self.path / _NAME} can't be read ({error.strerror}): it names the run's buffer. Restore it, "
                "or train again with --replace."
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other processes from training in this folder; ConfigError if one does. It ends with the process."""
        with (self.path / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another process trains in {self.path}. Stop it first, or give another folder with --run."
                ) from None
            yield

    def is_locked(self) -> bool:
        """True while a process trains in this folder."""
        try:
            with self.lock():
                return False
        except ConfigError:
            return True

    @property
    def plots(self) -> Path:
        """Folder of PNG files."""
        return self.path / "plots"

    @property
    def buffer(self) -> Path:
        """Folder of the run's own Redis server, which creates it."""
        return self.path / "buffer"

    @property
    def checkpoints(self) -> Path:
        """Folder of the learner's states; the learner creates it."""
        return self.path / "checkpoints"

    @property
    def adapter_path(self) -> Path:
        """Folder of the adapter, which PEFT, transformers and vLLM load. It exists once an adapter is written."""
        return self.path / "adapter"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved recipe. TOML has no null: a field that is None is omitted, which reads as its default."""
        write_whole(self.path / "config.toml", tomli_w.dumps(_without_none(config)).encode())

    def read_config(self) -> dict[str, Any]:
        """The resolved recipe as plain values. ConfigError if it is not valid TOML."""
        try:
            return tomllib.loads((self.path / "config.toml").read_text())
        except (tomllib.TOMLDecodeError, OSError) as error:
            raise ConfigError(
                f"{self.path / 'config.toml'} can't be read: {error}. Fix it, or train again with --replace."
            ) from error

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row as a line of JSON; numbers that are not finite are written as null."""
        append_line(self._metrics, row)

    def cut_metrics(self, step: int) -> None:
        """Delete the rows after `step`: a run that resumes from there writes them again."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        write_lines(self._metrics, kept)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows, oldest first, null as NaN. A line cut short by a killed process is skipped."""
        return read_lines(self._metrics)

    def write_adapter(self, files: AdapterFiles) -> None:
        """Replace the adapter, each file atomically. The configuration is the same throughout a run."""
        write_adapter(self.adapter_path, files)

    def write_adapter_notes(self, files: Mapping[str, bytes]) -> None:
        """Put files that describe the adapter next to it, each replaced atomically."""
        for name, content in files.items():
            write_whole(self.adapter_path / name, content)

    def adapter(self) -> AdapterFiles:
        """The newest adapter. ConfigError if the run has not written one."""
        return AdapterFiles(self._read_adapter_file(WEIGHTS), self._read_adapter_file(CONFIG).decode())

    def write_version(self, version: AdapterVersion) -> None:
        """Write the version next to the adapter; call it after `write_adapter`."""
        write_whole(
            self.adapter_path / _VERSION, AdapterVersionFile.from_version(version).model_dump_json(indent=2).encode()
        )

    def version(self) -> AdapterVersion:
        """Number, digest and canary of the newest adapter. ConfigError if they are missing or damaged."""
        try:
            return AdapterVersionFile.model_validate_json(self._read_adapter_file(_VERSION)).version()
        except ValidationError as error:
            raise ConfigError(
                f"{self.adapter_path / _VERSION} is damaged ({error.error_count()} problems). "
                "It holds the adapter's digest and canary: "
                "use the folder as the run wrote it, or train again with --replace."
            ) from error

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace the JSON file `name`; numbers that are not finite are written as null."""
        write_json(self.path / name, values)

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file that `write_json` wrote."""
        values: dict[str, Any] = json.loads((self.path / name).read_text())
        return values

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace summary.json; numbers that are not finite are written as null."""
        self.write_json("summary.json", summary)

    def finished_steps(self) -> int:
        """Steps of the summary; 0 if the run has not finished."""
        return int(self.read_summary()["steps"]) if (self.path / "summary.json").is_file() else 0

    def read_summary(self) -> dict[str, Any]:
        """The content of summary.json. ConfigError if the run has not finished."""
        try:
            values: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.path} has no summary.json: the run has not finished. "
                "Let it finish, or train again with --replace."
            ) from error
        return values

    def certified(self, digest: str) -> dict[str, Any]:
        """The content of evaluation.json, else of summary.json, whichever has a certificate of the adapter with this
        sha256; empty if neither has."""
        for name in ("evaluation.json", "summary.json"):
            with suppress(OSError, ValueError):
                values: dict[str, Any] = json.loads((self.path / name).read_text())
                if values.get("adapter_sha256") == digest and values.get("certificate"):
                    return values
        return {}

    def _read_adapter_file(self, name: str) -> bytes:
        try:
            return (self.adapter_path / name).read_bytes()
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.path} has no adapter yet: adapter/{name} is missing. "
                "Let the run finish, or train again with --replace."
            ) from error


_CREATED = {"metrics.jsonl", "log.jsonl", "plots", "buffer", _NAME, _LOCK}
"""Files left by a run that crashed before `write_config`."""


def check_disk(path: Path, needed_bytes: int) -> None:
    """ConfigError if the file system of `path`, which need not exist, has less than `needed_bytes` free."""
    existing = path.expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ConfigError(
            f"{existing} has {free / 1e9:.1f} GB free and {needed_bytes / 1e9:.1f} GB are needed for {path}. "
            "Free some space, or choose a folder on another disk."
        )


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
