"""The binary layouts that Python and the Lua scripts share. lua/shared.lua documents each field."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
GROUP_BYTES = 8
NONE = 2**32 - 1
"""No slot."""
PLACES_END = 2**32
"""Modulus of the places in an index."""
LEVEL_COUNT = 512
INDEX_STATE = np.dtype([("count", "<u4"), ("base", "<u4"), ("head", "<u4")])
"""State of the index of a level or a group."""
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
"""An item's entry in its level; also a row of a draw."""

MAX_BIN = 32767
"""Rewards beyond +- this bin count in the outermost one."""
BINS_PER_NAT = 2


def reward_bin(log_reward: float) -> int:
    """The bin of the histogram for a log R [nats]."""
    return int(max(-MAX_BIN, min(MAX_BIN, log_reward * BINS_PER_NAT // 1)))


def unpack_levels(data: bytes | None) -> NDArray[Any]:
    """[LEVEL_COUNT] of INDEX_STATE from the key `levels`: all counts first, then base and head of each."""
    states = np.zeros(LEVEL_COUNT, dtype=INDEX_STATE)
    numbers = np.frombuffer((data or b"").ljust(states.nbytes, b"\0")[: states.nbytes], "<u4")
    states["count"] = numbers[:LEVEL_COUNT]
    states["base"], states["head"] = numbers[LEVEL_COUNT:].reshape(-1, 2).T
    return states


def pack_levels(states: NDArray[Any]) -> bytes:
    """The bytes of the key `levels` from states [LEVEL_COUNT] of INDEX_STATE."""
    places = np.stack([states["base"], states["head"]], axis=1)
    return bytes(states["count"].tobytes() + places.tobytes())
