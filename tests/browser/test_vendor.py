"""Vendored files match the checksums in their README."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "deploy/dashboard/static/vendor"


def test_vendored_files_match_the_checksums_of_their_readme() -> None:
    listed = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text()))
    actual = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in VENDOR.iterdir() if p.name != "README.md"}
    assert listed == actual
