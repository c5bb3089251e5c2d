"""A short name for the content of a model or an adapter, which survives copies and moves of its folder."""

import hashlib
from pathlib import Path

PIECES, PIECE_BYTES = 8, 2**20
"""Pieces of each weight file that are read: all of a 7B model would take a minute."""


def fingerprint(folder: Path) -> str:
    """32 hex digits: of the JSON configuration whole, and of each weight file its size and evenly spaced pieces."""
    digest = hashlib.blake2b(digest_size=16)
    for path in (folder / "config.json", folder / "adapter_config.json"):
        if path.is_file():
            digest.update(path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for k in range(PIECES):
                file.seek(max(size - PIECE_BYTES, 0) * k // (PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()
