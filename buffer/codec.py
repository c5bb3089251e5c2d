"""Trajectory <-> bytes. Fixed little-endian header, raw arrays, msgpack for open metadata only; never pickle.

offset  type     content
0       4 bytes  b"TRIB"
4       u16      schema version
6       5 x u32  P, T, K, bytes of metadata, crc32 of everything after the header
26      i32[P]   prompt_token_ids            then, without gaps:
        i32[T]   token_ids
        u8[T]    is_action, 0 or 1
        f32[T]   log_pf
        f32[T+1] log_pterm
        f32[K(T+1)]  log_reward, term by term; f32[K] in version 2, where only the whole string has a reward
        msgpack  map of the remaining fields (_METADATA)

A record is untrusted input: every length is checked before the bytes are read, and malformed bytes raise RecordError
and nothing else.
"""

import math
import struct
import zlib
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from buffer.errors import RecordError
from buffer.types import NOT_SCORED, Trajectory

SCHEMA_VERSION = 1
"""A reward for every prefix."""
WHOLE_STRING_VERSION = 2
"""A reward for the whole string alone."""
MAX_RECORD_BYTES = 16 * 1024**2
MAX_TOKENS = 1 << 20
"""Maximum of P and of T."""
MAX_TERMS = 64
"""Maximum of K."""
MAX_METADATA_BYTES = 64 * 1024

_MAGIC = b"TRIB"
_HEADER = struct.Struct("<4sHIIIII")
_METADATA: dict[str, type] = {
    "prompt_id": str,
    "policy_version": int,
    "adapter_digest": str,
    "behaviour": str,
    "task": str,
    "sampled_at": float,
    "sampling_s": float,
    "scoring_s": float,
    "reward_terms": list,
    "labels": dict,
}


def encode(trajectory: Trajectory) -> bytes:
    """The record of one trajectory, scored or not. Raise RecordError for one that `decode` would reject."""
    _check_arrays(trajectory)
    metadata = _packed_metadata(trajectory)
    body = b"".join(
        (
            _little(trajectory.prompt_token_ids, "<i4"),
            _little(trajectory.token_ids, "<i4"),
            _little(trajectory.is_action, "u1"),
            _little(trajectory.log_pf, "<f4"),
            _little(trajectory.log_pterm, "<f4"),
            _little(trajectory.log_reward, "<f4"),
            metadata,
        )
    )
    lengths = (len(trajectory.prompt_token_ids), len(trajectory.token_ids), len(trajectory.reward_terms), len(metadata))
    every_prefix = not trajectory.is_scored or trajectory.log_reward.shape[1] == len(trajectory.token_ids) + 1
    version = SCHEMA_VERSION if every_prefix else WHOLE_STRING_VERSION
    _body_bytes(version, *lengths)
    return _HEADER.pack(_MAGIC, version, *lengths, zlib.crc32(body)) + body


def decode(record: bytes) -> Trajectory:
    """The trajectory of a record, its arrays read-only. Raise RecordError, and nothing else, for malformed bytes."""
    version, n_prompt, n_tokens, n_terms, n_metadata = _read_header(record)
    offset = _HEADER.size

    def take(dtype: str, count: int) -> NDArray[Any]:
        nonlocal offset
        # Copied: offsets are not aligned, and a view would keep the whole record alive.
        array = np.frombuffer(record, dtype, count, offset).astype(np.dtype(dtype).newbyteorder("="))
        array.flags.writeable = False
        offset += count * array.itemsize
        return array

    prompt_token_ids, token_ids = take("<i4", n_prompt), take("<i4", n_tokens)
    flags = take("u1", n_tokens)
    if n_tokens and flags.max() > 1:
        raise RecordError(f"is_action holds {flags.max()}, must be 0 or 1")
    is_action = flags.view(np.bool_)
    log_pf, log_pterm = take("<f4", n_tokens), take("<f4", n_tokens + 1)
    n_rewards = n_terms * _rewards_per_term(version, n_tokens)
    log_reward = take("<f4", n_rewards).reshape(n_terms, -1) if n_terms else NOT_SCORED
    metadata = _read_metadata(record[offset : offset + n_metadata])
    trajectory = Trajectory(
        prompt_token_ids=prompt_token_ids,
        token_ids=token_ids,
        is_action=is_action,
        log_pf=log_pf,
        log_pterm=log_pterm,
        log_reward=log_reward,
        reward_terms=tuple(metadata.pop("reward_terms")),
        **metadata,
    )
    if len(trajectory.reward_terms) != n_terms:
        raise RecordError(f"{len(trajectory.reward_terms)} reward terms are named, the header has K = {n_terms}")
    _check_arrays(trajectory)
    return trajectory


def _read_header(record: bytes) -> tuple[int, int, int, int, int]:
    """Version, P, T, K and bytes of metadata, after checking magic, version, lengths and checksum."""
    if len(record) < _HEADER.size:
        raise RecordError(f"{len(record)} bytes are shorter than the {_HEADER.size} bytes of a header")
    magic, version, n_prompt, n_tokens, n_terms, n_metadata, crc = _HEADER.unpack_from(record)
    if magic != _MAGIC:
        raise RecordError(f"starts with {magic!r}, not {_MAGIC!r}: not a record of a trajectory")
    if version not in (SCHEMA_VERSION, WHOLE_STRING_VERSION):
        raise RecordError(
            f"schema version {version}, this code reads {SCHEMA_VERSION} and {WHOLE_STRING_VERSION}: use the release "
            "that wrote it"
        )
    expected = _body_bytes(version, n_prompt, n_tokens, n_terms, n_metadata)
    body = memoryview(record)[_HEADER.size :]
    if len(body) != expected:
        raise RecordError(f"{len(body)} bytes follow the header, its lengths require {expected}")
    if zlib.crc32(body) != crc:
        raise RecordError(f"crc32 is {zlib.crc32(body):08x}, the header has {crc:08x}: damaged")
    return version, n_prompt, n_tokens, n_terms, n_metadata


def _rewards_per_term(version: int, n_tokens: int) -> int:
    return 1 if version == WHOLE_STRING_VERSION else n_tokens + 1


def _body_bytes(version: int, n_prompt: int, n_tokens: int, n_terms: int, n_metadata: int) -> int:
    """Bytes after the header that the lengths require; raise RecordError for a length beyond its limit."""
    rewards = n_terms * _rewards_per_term(version, n_tokens)
    total = 4 * n_prompt + 9 * n_tokens + 4 * (n_tokens + 1 + rewards) + n_metadata
    for name, value, limit in (
        ("P", n_prompt, MAX_TOKENS),
        ("T", n_tokens, MAX_TOKENS),
        ("K", n_terms, MAX_TERMS),
        ("metadata bytes", n_metadata, MAX_METADATA_BYTES),
        ("record bytes", _HEADER.size + total, MAX_RECORD_BYTES),
    ):
        if value > limit:
            raise RecordError(f"{name} = {value} exceeds the limit of a record, {limit}")
    return total


def _packed_metadata(trajectory: Trajectory) -> bytes:
    try:
        metadata = {
            name: kind(getattr(trajectory, name)) if kind in (int, float) else getattr(trajectory, name)
            for name, kind in _METADATA.items()
        }
        metadata["reward_terms"] = list(trajectory.reward_terms)
        metadata["labels"] = {name: float(value) for name, value in trajectory.labels.items()}
        _check_metadata(metadata)
        packed = msgpack.packb(metadata)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise RecordError(f"metadata of a trajectory can't be written: {error}") from error
    return bytes(packed)


def _read_metadata(packed: bytes) -> dict[str, Any]:
    limit = MAX_METADATA_BYTES
    try:
        metadata = msgpack.unpackb(
            packed, max_str_len=limit, max_bin_len=0, max_ext_len=0, max_array_len=limit, max_map_len=limit
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(f"metadata is not valid msgpack: {error or type(error).__name__}") from error
    if type(metadata) is not dict:
        raise RecordError(f"metadata is a {type(metadata).__name__}, must be a map")
    _check_metadata(metadata)
    return metadata


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Require exactly the fields of the schema, each of exactly its type, with finite times."""
    if metadata.keys() != _METADATA.keys():
        raise RecordError(f"metadata fields differ from the schema's in {metadata.keys() ^ _METADATA.keys()}")
    for name, kind in _METADATA.items():
        value = metadata[name]
        if type(value) is not kind:
            raise RecordError(f"{name} is a {type(value).__name__}, must be a {kind.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise RecordError(f"{name} = {value} must be finite")
    if not 0 <= metadata["policy_version"] < 2**63:
        raise RecordError(f"policy_version = {metadata['policy_version']} must be 0 or more")
    if not all(type(term) is str for term in metadata["reward_terms"]):
        raise RecordError("reward_terms must be strings")
    for name, value in metadata["labels"].items():
        if type(name) is not str or type(value) is not float:
            raise RecordError(f"label {name!r} = {value!r} must be a name and a float")


def _check_arrays(trajectory: Trajectory) -> None:
    """Require the types, shapes and values that `Trajectory` documents."""
    n_tokens, n_terms = len(trajectory.token_ids), len(trajectory.reward_terms)
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "prompt_token_ids": (np.int32, (len(trajectory.prompt_token_ids),)),
        "token_ids": (np.int32, (n_tokens,)),
        "is_action": (np.bool_, (n_tokens,)),
        "log_pf": (np.float32, (n_tokens,)),
        "log_pterm": (np.float32, (n_tokens + 1,)),
        "log_reward": (np.float32, _reward_shape(trajectory)),
    }
    for name, (dtype, shape) in expected.items():
        array = getattr(trajectory, name)
        if array.dtype != dtype or array.shape != shape:
            raise RecordError(f"{name} is {array.dtype}{list(array.shape)}, must be {np.dtype(dtype)}{list(shape)}")
    for name in ("prompt_token_ids", "token_ids"):
        if np.any(getattr(trajectory, name) < 0):
            raise RecordError(f"{name} holds {getattr(trajectory, name).min()}; token ids are 0 or more")
    if not np.all(np.isfinite(trajectory.log_pf)):
        raise RecordError("log_pf must be finite: a token of probability 0 can't have been sampled")
    if np.any(np.isnan(trajectory.log_pterm)) or np.any(trajectory.log_pterm == np.inf):
        raise RecordError("log_pterm must be a number or -inf")
    every_prefix = n_terms and trajectory.log_reward.shape[1] > 1
    if not np.all(
        np.isfinite(trajectory.log_reward[:, trajectory.is_state] if every_prefix else trajectory.log_reward)
    ):
        raise RecordError("log_reward must be finite at every state; give impossible strings a very low, finite value")


def _reward_shape(trajectory: Trajectory) -> tuple[int, int]:
    """The shape that `log_reward` must have: that of a reward for the whole string alone only if it is exactly that."""
    n_tokens, n_terms = len(trajectory.token_ids), len(trajectory.reward_terms)
    if not n_terms:
        return 0, 0
    return n_terms, 1 if trajectory.log_reward.shape == (n_terms, 1) else n_tokens + 1


def _little(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array).astype(dtype, copy=False).tobytes()
