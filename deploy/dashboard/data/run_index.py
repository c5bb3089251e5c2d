"""The runs that a dashboard shows, by id: those named on the command line, and their neighbours to compare with.

A request names a run by id and never by path, so no request reaches a file that is not in this list.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deploy.dashboard.data.redis_poller import RedisPoller
from deploy.dashboard.data.redis_run import RedisRun
from deploy.dashboard.data.run_reader import RunReader

MAX_NEIGHBOURS = 50


class Runs:
    """Named runs first, then neighbours, newest first."""

    def __init__(self, folders: Sequence[Path], redis_poller: RedisPoller | None = None) -> None:
        """`redis_poller` polls the buffer of the first run, or is itself the only run where no folder is named."""
        self._folders = [folder.expanduser().absolute() for folder in folders]
        self.redis_poller = redis_poller
        self._runs: dict[str, RunReader] = {}
        self._lock = threading.Lock()
        for folder in self._folders:
            self._add(folder, primary=True)
        if redis_poller and not self._runs:
            self._runs["redis"] = RedisRun(redis_poller)
        self.first = next(iter(self._runs))
        self._runs[self.first].redis_poller = redis_poller

    def get(self, run_id: str | None) -> RunReader | None:
        """A run by its id, refreshed; the first one for None; None for an unknown id."""
        if run_id is not None and run_id not in self._runs:
            self.look()
        run = self._runs.get(self.first if run_id is None else run_id)
        if run is not None:
            run.refresh()
        return run

    def look(self) -> list[RunReader]:
        """All runs; new neighbours are added, deleted ones are dropped."""
        with self._lock:
            for folder in self._neighbours():
                if folder not in {run.folder for run in self._runs.values()}:
                    self._add(folder, primary=False)
            for name, run in list(self._runs.items()):
                if not run.primary and not run.folder.is_dir():
                    self._runs.pop(name).close()
            return list(self._runs.values())

    def close(self) -> None:
        """Close all files."""
        for run in self._runs.values():
            run.close()

    def _add(self, folder: Path, primary: bool) -> None:
        name, number = folder.name, 2
        while name in self._runs:
            name, number = f"{folder.name}-{number}", number + 1
        self._runs[name] = RunReader(folder, name, primary)

    def _neighbours(self) -> list[Path]:
        """Folders next to the first run that are runs themselves."""
        if not self._folders:
            return []
        by_age: list[tuple[float, Path]] = []
        with suppress(OSError):  # the folder above may not be listable
            for path in self._folders[0].parent.iterdir():
                with suppress(OSError):  # unreadable, or just removed
                    if path not in self._folders and _is_run(path):
                        by_age.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(by_age, reverse=True)[:MAX_NEIGHBOURS]]


def _is_run(path: Path) -> bool:
    """A folder with the files of a run. Links are not followed: whoever made the folder may not read what we may."""
    files = (path / "config.toml", path / "metrics.jsonl")
    return not path.is_symlink() and all(file.is_file() and not file.is_symlink() for file in files)
