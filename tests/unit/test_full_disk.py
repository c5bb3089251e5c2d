"""Files on a disk that is full: writers wait, nothing is cut short, and they go on once there is room."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from buffer import full_disk
from buffer.errors import WaitTimeout
from buffer.full_disk import is_full, when_there_is_room
from deploy.artifacts.json_files import append_line, read_lines, write_json, write_whole
from learner.checkpoint import Checkpoints, Numbers, State
from tests.support.processes import until
from tests.support.small_disk import fill, small_disk

WAITS = "free some space, and the run goes on"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(logging.getLogger("tributary"), "propagate", True)  # for caplog
    with small_disk(tmp_path) as disk:
        yield disk


def once_there_is_room(write: Callable[[], object], disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Run `write` on a full disk, check that it waits, make room, and wait until it is done."""
    filler = fill(disk)
    assert is_full(disk)
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    until(lambda: WAITS in caplog.text, 20, "a wait")
    assert f"the disk of {disk}" in caplog.text and thread.is_alive()
    filler.unlink()
    thread.join(20)
    assert not thread.is_alive() and not is_full(disk)


def test_a_file_is_replaced_once_there_is_room_and_is_whole_until_then(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk / "summary.json"
    write_json(path, {"a": 1})
    old = path.read_bytes()

    def write() -> None:
        write_whole(path, b"x" * 100_000)

    filler = fill(disk)
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    until(lambda: WAITS in caplog.text, 20, "a wait")
    assert path.read_bytes() == old
    filler.unlink()
    thread.join(20)
    assert path.read_bytes() == b"x" * 100_000


def test_a_line_is_appended_whole_after_what_was_there(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = disk / "metrics.jsonl"
    append_line(path, {"step": 1})
    once_there_is_room(lambda: append_line(path, {"step": 2, "text": "y" * 50_000}), disk, caplog)
    assert [row["step"] for row in read_lines(path)] == [1, 2]
    assert path.read_text().count("\n") == 2, "no part of the first attempt is left"


def test_a_checkpoint_is_saved_once_there_is_room(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(disk, keep=2)
    state = State(
        Numbers(step=3, version=3, skipped_steps=0, adapter_sha256="0" * 64), {"weights": torch.arange(100_000.0)}
    )
    once_there_is_room(lambda: checkpoints.save(state), disk, caplog)
    newest = checkpoints.newest()
    assert newest is not None and newest.numbers.step == 3


def test_the_wait_is_bounded_and_other_errors_are_not_waited_for(
    disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(full_disk, "LIMIT_S", 0.3)
    fill(disk)
    with pytest.raises(WaitTimeout, match=r"the disk of .* is full: free some space"):
        append_line(disk / "metrics.jsonl", {"step": 1})
    with pytest.raises(FileNotFoundError):
        when_there_is_room(lambda: (tmp_path / "missing" / "file").write_text("x"), tmp_path)
