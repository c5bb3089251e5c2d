"""What is vendored is what its README says."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "deploy/dashboard/static/vendor"


def test_vendored_files_have_the_sums_that_their_readme_gives() -> None:
    said = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text()))
    there = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in VENDOR.iterdir() if p.name != "README.md"}
    assert said == there
