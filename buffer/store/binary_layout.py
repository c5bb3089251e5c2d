"""The bytes that Python and the Lua scripts share. lua/shared.lua says what each field is for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
GROUP_BYTES = 8
NONE = 2**32 - 1
"""No slot."""
PLACES_END = 2**32
"""Places in an index are counted modulo this."""
LEVEL_COUNT = 512
INDEX_STATE = np.dtype([("count", "<u4"), ("base", "<u4"), ("head", "<u4")])
"""Of a level or a group."""
ITEM = np.dtype(
    [
        ("digest", f"V{DIGEST_BYTES}"),
        ("group", f"V{GROUP_BYTES}"),
        ("version", "<u4"),
        ("log_reward", "<f4"),
        ("bin", "<i2"),
        ("level", "<u2"),
        ("level_at", "<u4"),
        ("group_at", "<u4"),
        ("older", "<u4"),
        ("newer", "<u4"),
        ("generation", "<u4"),
        ("draws", "<u4"),
        ("arrived_at", "<u4"),
        ("arrival", "<u4"),
    ]
)
"""An item."""
ENTRY = np.dtype(
    [("slot", "<u4"), ("generation", "<u4"), ("version", "<u4"), ("level", "<u2"), ("digest", f"V{DIGEST_BYTES}")]
)
"""What an item's level, and a draw, say of it."""

MOST_BIN = 32767
"""Reward bins beyond +- this are the outermost one."""
BINS_PER_NAT = 2


def reward_bin(log_reward: float) -> int:
    """Which bar of the histogram a log R [nats] belongs to."""
    return int(max(-MOST_BIN, min(MOST_BIN, log_reward * BINS_PER_NAT // 1)))


def unpack_levels(data: bytes | None) -> NDArray[Any]:
    """[LEVEL_COUNT] of INDEX_STATE from the key `levels`: all counts first, then base and head of each."""
    found = np.zeros(LEVEL_COUNT, dtype=INDEX_STATE)
    numbers = np.frombuffer((data or b"").ljust(found.nbytes, b"\0")[: found.nbytes], "<u4")
    found["count"] = numbers[:LEVEL_COUNT]
    found["base"], found["head"] = numbers[LEVEL_COUNT:].reshape(-1, 2).T
    return found


def pack_levels(states: NDArray[Any]) -> bytes:
    """The other way."""
    places = np.stack([states["base"], states["head"]], axis=1)
    return bytes(states["count"].tobytes() + places.tobytes())
