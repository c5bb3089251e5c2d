"""docs/configuration.md and docs/cli.md are what the code says now."""

import pytest

from tests.support.reference_pages import COMMAND, DOCS, PAGES


@pytest.mark.parametrize("file", PAGES)
def test_a_generated_page_is_up_to_date(file: str) -> None:
    assert (DOCS / file).read_text() == PAGES[file](), f"docs/{file} is behind the code. Run: {COMMAND}"
