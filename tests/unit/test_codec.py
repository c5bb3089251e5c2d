"""Records are exact, and nothing that was not written here is taken for one."""

import dataclasses
import struct
import zlib
from collections.abc import Callable

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buffer.codec import decode, encode
from buffer.errors import RecordError
from buffer.types import NOT_SCORED, Trajectory

Make = Callable[..., Trajectory]
HEADER = struct.Struct("<4sHIIIII")


def with_true_crc(record: bytes) -> bytes:
    """The record with the checksum that its body asks for, so that what is wrong in the body is reached."""
    header = record[: HEADER.size - 4]
    return header + struct.pack("<I", zlib.crc32(record[HEADER.size :])) + record[HEADER.size :]


def with_metadata(record: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """The record with other metadata, lengths and checksum right."""
    magic, version, *lengths, n_metadata, _ = HEADER.unpack_from(record)
    metadata = msgpack.unpackb(record[-n_metadata:])
    packed = msgpack.packb(change(metadata))
    header = HEADER.pack(magic, version, *lengths, len(packed), 0)
    return with_true_crc(header + record[HEADER.size : -n_metadata] + packed)


def assert_equal(left: Trajectory, right: Trajectory) -> None:
    for field in dataclasses.fields(Trajectory):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b, field.name


@pytest.mark.parametrize("length", [0, 1, 7, 300])
def test_a_record_gives_back_exactly_what_was_written(make_trajectory: Make, length: int) -> None:
    trajectory = make_trajectory(3, length=length)
    assert_equal(decode(encode(trajectory)), trajectory)


def test_an_unscored_trajectory_keeps_being_unscored(make_trajectory: Make) -> None:
    trajectory = make_trajectory(log_reward=NOT_SCORED, reward_terms=())
    assert not decode(encode(trajectory)).is_scored


def test_what_the_types_allow_beyond_numbers_survives(make_trajectory: Make) -> None:
    """-inf where stopping was not allowed; anything as log R where a tool was writing, as that is no state."""
    log_pterm = np.array([-np.inf, -1, 0], dtype=np.float32)
    log_reward = np.array([[-1, np.nan, -2]], dtype=np.float32)
    is_action = np.array([True, False])
    trajectory = make_trajectory(
        length=2, log_pterm=log_pterm, log_reward=log_reward, reward_terms=("r",), is_action=is_action
    )
    assert_equal(decode(encode(trajectory)), trajectory)


def test_decoded_arrays_are_read_only(make_trajectory: Make) -> None:
    trajectory = decode(encode(make_trajectory()))
    for name in ("prompt_token_ids", "token_ids", "is_action", "log_pf", "log_pterm", "log_reward"):
        assert not getattr(trajectory, name).flags.writeable, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_ids": np.arange(5)}, r"token_ids is int64\[5\], must be int32\[5\]"),
        ({"log_pf": np.zeros(4, np.float32)}, r"log_pf is float32\[4\], must be float32\[5\]"),
        ({"log_pf": np.full(5, -np.inf, np.float32)}, "log_pf must be finite"),
        ({"log_pterm": np.full(6, np.nan, np.float32)}, "log_pterm must be a number or -inf"),
        ({"log_reward": np.full((2, 6), -np.inf, np.float32)}, "log_reward must be finite at every state"),
        ({"prompt_token_ids": np.array([-1], np.int32)}, "prompt_token_ids holds -1"),
        ({"sampled_at": float("nan")}, "sampled_at = nan must be finite"),
        ({"policy_version": -1}, "policy_version = -1 must be 0 or more"),
        ({"task": 3}, "task is a int, must be a str"),
        ({"task": "\ud800"}, "metadata of a trajectory can't be written"),
        ({"prompt_id": "x" * 70_000}, "metadata bytes = .* exceeds the limit of a record, 65536"),
    ],
)
def test_a_trajectory_that_breaks_its_contract_is_not_written(
    make_trajectory: Make, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        encode(make_trajectory(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {**m, "more": 1}, "fields differ"),
        (lambda m: {k: v for k, v in m.items() if k != "task"}, "fields differ"),
        (lambda m: {**m, b"": b""}, "not valid msgpack|fields differ"),
        (lambda m: list(m), "must be a map"),
        (lambda m: {**m, "policy_version": True}, "policy_version is a bool"),
        (lambda m: {**m, "scoring_s": float("inf")}, "scoring_s = inf"),
        (lambda m: {**m, "task": b"raw"}, "not valid msgpack"),
        (lambda m: {**m, "sampled_at": msgpack.ExtType(4, b"x")}, "not valid msgpack"),
        (lambda m: {**m, "reward_terms": [1, 2]}, "reward_terms must be strings"),
        (lambda m: {**m, "reward_terms": ["one"]}, "1 reward terms are named, the header has K = 2"),
        (lambda m: {**m, "labels": {"valid": "yes"}}, "label 'valid' = 'yes'"),
    ],
)
def test_metadata_is_taken_only_if_every_field_is_known_and_of_its_type(
    make_trajectory: Make, change: Callable[[dict[str, object]], object], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        decode(with_metadata(encode(make_trajectory()), change))


@pytest.mark.parametrize("position", range(4))
def test_a_length_beyond_the_record_is_refused_before_anything_is_read(make_trajectory: Make, position: int) -> None:
    record = bytearray(encode(make_trajectory()))
    struct.pack_into("<I", record, 6 + 4 * position, 2**32 - 1)
    with pytest.raises(RecordError, match="exceeds the limit of a record"):
        decode(with_true_crc(bytes(record)))


def test_a_flag_that_is_neither_0_nor_1_is_refused(make_trajectory: Make) -> None:
    record = bytearray(encode(make_trajectory(length=5)))
    record[HEADER.size + 4 * 3 + 4 * 5] = 2  # after three prompt tokens and five response tokens
    with pytest.raises(RecordError, match="is_action holds 2, must be 0 or 1"):
        decode(with_true_crc(bytes(record)))


def test_another_schema_version_is_named(make_trajectory: Make) -> None:
    record = bytearray(encode(make_trajectory()))
    struct.pack_into("<H", record, 4, 3)
    with pytest.raises(RecordError, match="schema version 3, this code reads 1 and 2"):
        decode(bytes(record))


def test_every_single_flipped_bit_is_noticed(make_trajectory: Make) -> None:
    record = encode(make_trajectory())
    for position in range(len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(RecordError):
            decode(bytes(damaged))


def test_mutated_records_raise_nothing_but_record_error(make_trajectory: Make) -> None:
    """2000 mutations, checksum corrected in most of them, so that they reach the arrays and the metadata."""
    rng = np.random.default_rng(0)
    record, refused = encode(make_trajectory()), 0
    for turn in range(2000):
        damaged = bytearray(record)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(damaged)))
            match rng.integers(0, 4):
                case 0:
                    damaged[at] = int(rng.integers(0, 256))
                case 1:
                    del damaged[at : at + int(rng.integers(1, 20))]
                case 2:
                    damaged[at:at] = rng.bytes(int(rng.integers(1, 20)))
                case 3:
                    damaged[at:] = b""
            if not damaged:
                break
        bytes_ = bytes(damaged) if turn % 4 == 0 or len(damaged) < HEADER.size else with_true_crc(bytes(damaged))
        try:
            decode(bytes_)
        except RecordError:
            refused += 1
    assert refused > 500


@given(packed=st.binary(max_size=200))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_metadata_bytes_raise_nothing_but_record_error(make_trajectory: Make, packed: bytes) -> None:
    record = encode(make_trajectory())
    magic, version, *lengths, n_metadata, _ = HEADER.unpack_from(record)
    header = HEADER.pack(magic, version, *lengths, len(packed), 0)
    with pytest.raises(RecordError):
        decode(with_true_crc(header + record[HEADER.size : -n_metadata] + packed))


def test_the_id_follows_the_content_and_nothing_else(make_trajectory: Make) -> None:
    trajectory = make_trajectory(1)
    assert make_trajectory(1, policy_version=9, behaviour="tempered").content_id == trajectory.content_id
    assert decode(encode(trajectory)).content_id == trajectory.content_id
    others = [
        make_trajectory(1, prompt_id="other"),
        make_trajectory(1, prompt_token_ids=np.array([9], np.int32)),
        make_trajectory(1, token_ids=np.arange(5, dtype=np.int32)),
    ]
    assert len({t.content_id for t in [trajectory, *others]}) == 4


def test_tokens_moved_from_prompt_to_response_change_the_id(make_trajectory: Make) -> None:
    def split(at: int) -> Trajectory:
        tokens = np.arange(6, dtype=np.int32)
        return make_trajectory(1, prompt_token_ids=tokens[:at], token_ids=tokens[at:])

    assert split(2).content_id != split(3).content_id
