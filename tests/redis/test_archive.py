"""A buffer in a file: all of it comes back, and nothing of a damaged one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from buffer.archive import export_archive, import_archive
from buffer.errors import ConfigError, RecordError
from buffer.replay import AddResult, ReplayBuffer
from buffer.store.check import findings, snapshot
from buffer.stored_policy import StoredPolicy
from buffer.types import Trajectory

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


POLICY = StoredPolicy(
    base_model="cd" * 16, task_options="", vocabulary="ab" * 32, rows=1000, stop_token_id=9, min_actions=0, max_actions=5, allowed_token_ids=None, task="test",
    length_penalty=0.0, reward_adapter=None,
)  # fmt: skip


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


@pytest.mark.parametrize(("offset", "what"), [(10, "a policy"), (14, "a record")])
def test_a_length_beyond_the_cap_is_refused_unread(
    archive: Path, make_buffer: MakeBuffer, offset: int, what: str
) -> None:
    data = bytearray(archive.read_bytes())
    data[offset : offset + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(bytes(data))
    with pytest.raises(RecordError, match=f"{what} of 4294967295 bytes, at most"):
        import_archive(make_buffer(), archive)


def test_a_file_that_is_not_there_is_named(make_buffer: MakeBuffer, client: redis.Redis, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.trib can't be read \(No such file"):
        import_archive(make_buffer(), tmp_path / "nowhere.trib")
    with pytest.raises(ConfigError, match=r"can't be written \(No such file"):
        export_archive(client, make_buffer(), tmp_path / "no" / "folder.trib")


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": "cd" * 32}, {"stop_token_id": 8}, {"max_actions": 6}, {"allowed_token_ids": (1, 2)}, {"forbidden_token_ids": (1, 2)}, {"task": "other"},
        {"length_penalty": 0.5}, {"reward_adapter": "somewhere"}, {"base_model": "ef" * 16}, {"task_options": "other"},
    ],
    ids=str,
)  # fmt: skip
def test_strings_of_another_policy_or_reward_are_not_imported(
    make_buffer: MakeBuffer, make_trajectory: Make, client: redis.Redis, tmp_path: Path, change: dict[str, object]
) -> None:
    path, source = tmp_path / "buffer.trib", make_buffer()
    source.note_policy(POLICY)
    source.add([make_trajectory(k) for k in range(3)])
    export_archive(client, source, path)
    assert import_archive(source, path).duplicates == 3
    source.clear()
    other = make_buffer()
    other.note_policy(POLICY.model_copy(update=change))
    with pytest.raises(ConfigError, match=f"{next(iter(change))}: .*nothing was imported"):
        import_archive(other, path)
    assert other.stats().arrivals == 0


def test_an_archive_without_a_policy_is_checked_string_by_string(
    archive: Path, make_buffer: MakeBuffer, make_trajectory: Make
) -> None:
    buffer = make_buffer()
    buffer.note_policy(POLICY.model_copy(update={"max_actions": 4}))
    with pytest.raises(RecordError, match="it has 5 actions; the policy makes 0 to 4"):
        import_archive(buffer, archive)
    buffer = make_buffer()
    buffer.note_policy(POLICY)
    buffer.add([make_trajectory(0, length=3, reward_terms=("other", "terms"), log_reward=np.zeros((2, 4), np.float32))])
    with pytest.raises(ConfigError, match="the buffer has other, terms: nothing was imported"):
        import_archive(buffer, archive)


FOREIGN = [
    ({"token_ids": [1000]}, "a token of its response is outside of the model's 1000 tokens"),
    ({"token_ids": [2**31 - 1]}, "a token of its response is outside of the model's 1000 tokens"),
    ({"prompt_token_ids": [5000]}, "a token of its prompt"),
    ({"token_ids": [1] * 6}, "it has 6 actions"),
    ({"token_ids": [1] * 5_000, "is_action": False}, "it has 5001 tokens; the model reads 64"),
    ({"prompt_token_ids": [1] * 5_000}, "tokens; the model reads 64"),
    ({"token_ids": [7]}, "not in policy.allowed_tokens"),
    ({"token_ids": [1, 3]}, "in policy.forbidden_tokens"),
    ({"token_ids": [1], "policy_version": 2**32 - 2}, "policy_version = 4294967294; the newest published one is 3"),
    ({"token_ids": [1], "policy_version": 4}, "policy_version = 4; the newest published one is 3"),
]


def foreign(make_trajectory: Make, fields: dict[str, Any]) -> Trajectory:
    """A well-formed trajectory of another policy."""
    n = len(fields.get("token_ids", [1]))
    arrays = {name: np.array(ids, np.int32) for name, ids in fields.items() if name.endswith("_ids")}
    acts = np.full(n, fields.get("is_action", True))
    others = {"is_action": acts, "prompt_token_ids": np.array([1], np.int32), "token_ids": np.array([1], np.int32)}
    return make_trajectory(0, length=n, **{**fields, **others, **arrays})


@pytest.mark.parametrize(("fields", "reason"), FOREIGN, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_a_string_that_the_policy_cannot_have_written_goes_to_quarantine_alone(
    make_buffer: MakeBuffer, make_trajectory: Make, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    """At `add`; at a draw, since any client with the password may write a record; and an import refuses its file."""
    policy = POLICY.model_copy(update={"allowed_token_ids": (1, 2, 3), "forbidden_token_ids": (3,), "max_tokens": 64})
    good = make_trajectory(1, length=2, token_ids=np.array([1, 2], np.int32))
    bad = foreign(make_trajectory, fields)
    careless, checked, archived = make_buffer(), make_buffer(), tmp_path / "foreign.trib"
    assert careless.add([bad]).added == 1, "it is well-formed"
    export_archive(careless.store.client, careless, archived)
    checked.note_policy(policy)
    checked.note_version(3)
    if "policy_version" in fields:  # of another run: not the string is foreign, but the number
        assert import_archive(checked, archived).duplicates == 1
    else:
        rows = [row for seed in range(3) for row in checked.draw(1, 0, np.random.default_rng(seed))]
        assert rows == [] and reason in checked.quarantined()[0].reason
        with pytest.raises(RecordError, match=re.escape(reason)):
            import_archive(checked, archived)
    result = checked.add([bad, good])
    assert (result.added, result.refused) == (1, {"malformed": 1})
    assert checked.stats().newest_version == 3
    assert checked.draw(1, 0, np.random.default_rng(9))[-1].content_id
    assert reason in checked.quarantined()[0].reason


def test_strings_of_a_later_version_of_another_run_are_imported_as_of_the_newest(
    archive: Path, make_buffer: MakeBuffer
) -> None:
    buffer = make_buffer(max_staleness=1)
    buffer.clear()
    buffer.note_version(1)
    assert import_archive(buffer, archive).added == 300
    assert buffer.stats().newest_version == 1
    assert buffer.draw(1, 0, np.random.default_rng(0))[0].policy_version == 1
