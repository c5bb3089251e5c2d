"""A buffer in a file: all of it comes back, and nothing of a damaged one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis

from buffer.archive import export_archive, import_archive
from buffer.errors import ConfigError, RecordError
from buffer.replay import AddResult, ReplayBuffer
from buffer.store.check import findings, snapshot
from buffer.types import Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


@pytest.fixture
def archive(make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, tmp_path: Path) -> Path:
    """Of 300 trajectories of different weights."""
    buffer = make_buffer()
    items = [make_trajectory(k) for k in range(300)]
    buffer.add(items, priorities=[float(1 + k % 7) for k in range(300)])
    path = tmp_path / "buffer.trib"
    assert export_archive(client, buffer, path).written == 300
    assert list(tmp_path.iterdir()) == [path]
    buffer.clear()
    return path


def by_age(client: redis.Redis, buffer: ReplayBuffer) -> list[tuple[str, int]]:
    stored = snapshot(client, buffer.store.keys)
    assert findings(stored) == []
    items = stored.items[stored.live]
    items = items[np.argsort(items["arrival"])]
    return [(d.hex(), level) for d, level in zip(items["digest"].tolist(), items["level"].tolist(), strict=True)]


def test_an_archive_brings_back_content_order_and_weights(
    archive: Path, make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    buffer = make_buffer()
    assert import_archive(buffer, archive) == AddResult(added=300, duplicates=0, evicted=0)
    kept = by_age(client, buffer)
    assert [content for content, _ in kept] == [make_trajectory(k).content_id for k in range(300)]
    assert len({level for _, level in kept}) == 7
    (row,) = buffer.draw(1, 0, np.random.default_rng(0))
    original = make_trajectory(0)
    assert np.array_equal(row.trajectory.log_reward, original.log_reward)
    assert import_archive(buffer, archive).duplicates == 300
    again = archive.with_name("again.trib")
    export_archive(client, buffer, again)
    assert again.read_bytes() == archive.read_bytes()


def test_an_import_keeps_to_the_buffers_own_rules(
    archive: Path, make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis
) -> None:
    small = make_buffer(capacity=40)
    small.clear()
    assert import_archive(small, archive) == AddResult(added=300, duplicates=0, evicted=260)
    assert [content for content, _ in by_age(client, small)] == [make_trajectory(k).content_id for k in range(260, 300)]


def test_a_damaged_archive_is_refused_before_anything_is_added(archive: Path, make_buffer: MakeBuffer) -> None:
    buffer, whole, rng = make_buffer(), archive.read_bytes(), np.random.default_rng(0)
    broken = [whole[: int(n)] for n in rng.integers(0, len(whole), 20)] + [whole + b"\0", b"", b"TRIBARCH", b"PK\3\4"]
    for offset in rng.integers(0, len(whole), 150).tolist():
        changed = bytearray(whole)
        changed[offset] ^= int(rng.integers(1, 256))
        broken.append(bytes(changed))
    for data in broken:
        archive.write_bytes(data)
        with pytest.raises(RecordError, match=r"can't be imported; at byte \d+: .*(undamaged copy|export again)"):
            import_archive(buffer, archive)
    assert buffer.stats().arrivals == 0


def test_a_length_beyond_the_cap_is_refused_unread(archive: Path, make_buffer: MakeBuffer) -> None:
    data = bytearray(archive.read_bytes())
    data[10:14] = b"\xff\xff\xff\xff"
    archive.write_bytes(bytes(data))
    with pytest.raises(RecordError, match="a record of 4294967295 bytes, at most 16777216"):
        import_archive(make_buffer(), archive)


def test_a_file_that_is_not_there_is_named(make_buffer: MakeBuffer, client: redis.Redis, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.trib can't be read \(No such file"):
        import_archive(make_buffer(), tmp_path / "nowhere.trib")
    with pytest.raises(ConfigError, match=r"can't be written \(No such file"):
        export_archive(client, make_buffer(), tmp_path / "no" / "folder.trib")
