"""docs/reliability.md promises nothing that no test claims."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 10 and named <= set(re.findall(r"def (test_\w+)\(", sources))
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/\S+\.py)`", page))
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| what", "|---"))]
    assert all("`test" in row for row in rows), "a promise without a test"


def test_make_test_faults_runs_every_promise_about_a_whole_system() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text("utf-8")))
    command = subprocess.run(["make", "-n", "test-faults"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in (ROOT / "tests" / "system").glob("test_*.py"):
        if named & set(re.findall(r"def (test_\w+)\(", path.read_text("utf-8"))):
            assert f"tests/system/{path.name}" in command.stdout
