"""The table of docs/models.md is what the code computes now."""

import pytest

from tests.support.architectures import ARCHITECTURES, MAX_DIFFERENCE, PAGE, models_page
from tests.system.test_benchmarks import run_small

pytestmark = pytest.mark.slow


def test_every_row_of_the_page_of_base_models_is_computed_again() -> None:
    rows = run_small("models")["rows"]
    supported = [row for row in rows if row["supported"]]
    assert len(supported) >= 21
    assert all(row["max_difference_nats"] <= MAX_DIFFERENCE for row in supported), rows
    assert not any(row["refused_because"] for row in supported), "validate refuses no model that loads"
    assert models_page(rows) == PAGE.read_text(), "python tests/benchmarks/models.py --write"
    assert all(row["refused_because"] for row in rows if not row["supported"]) and len(rows) == len(ARCHITECTURES)
