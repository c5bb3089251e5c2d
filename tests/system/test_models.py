"""The table of docs/models.md is what the code computes now, but for the figures of a machine."""

import pytest

from tests.support.architectures import ARCHITECTURES, MAX_DIFFERENCE, PAGE, models_page, split_page
from tests.system.test_benchmarks import run_small

pytestmark = pytest.mark.slow


def test_every_row_of_the_page_of_base_models_is_computed_again() -> None:
    rows = run_small("models")["rows"]
    supported = [row for row in rows if row["supported"]]
    assert len(supported) >= 26
    assert all(row["max_difference_nats"] <= MAX_DIFFERENCE for row in supported), rows
    assert not any(row["refused_because"] for row in supported), "validate refuses no model that loads"
    written, figures = split_page(PAGE.read_text())
    assert split_page(models_page(rows))[0] == written, "python tests/benchmarks/models.py --write"
    assert len(figures) == len(supported), "figures differ by machine, and are held to their bounds"
    assert all(difference <= MAX_DIFFERENCE and speedup > 0 for difference, speedup in figures)
    assert all(row["refused_because"] for row in rows if not row["supported"]) and len(rows) == len(ARCHITECTURES)
