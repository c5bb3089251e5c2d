"""Folders of adapters do not outlive the process that made them, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.cluster.scratch_folder import MIN_AGE_S, ScratchFolder
from tests.support.processes import ROOT

PROGRAM = (
    "from deploy.cluster.scratch_folder import ScratchFolder; f = ScratchFolder(); print(f.path, flush=True); input()"
)


def process(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has made a scratch folder, which is old enough to be removed."""
    made = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    assert made.stdout
    path = Path(made.stdout.readline().strip())
    (path / "v1").mkdir()
    age(path)
    return made, path


def age(path: Path) -> None:
    old = path.stat().st_mtime - 2 * MIN_AGE_S
    os.utime(path, (old, old))


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, left = process(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    living, used = process(tmp_path)
    assert not left.exists() and used.is_dir()
    others = tmp_path / "tributary-adapters-of-another-release"
    others.mkdir()
    age(others)
    with ScratchFolder() as scratch:
        assert scratch.path.is_dir() and used.is_dir() and others.is_dir()
    assert not scratch.path.exists()
    living.communicate("\n")
    assert not used.exists(), "one that ends removes its own"
