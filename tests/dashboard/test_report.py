"""The report: one self-contained file without scripts."""

import base64
import html.parser
import re

import pytest

from buffer.errors import ConfigError
from deploy.dashboard.views.glossary import GLOSSARY
from deploy.report.html_report import text, write_report
from tests.support.fixture_runs import make_run
from tests.support.hostile import HOSTILE


class Reader(html.parser.HTMLParser):
    """Collects tags, addresses and images as a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.images: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.images.append((attributes["src"], attributes["alt"]))


def read(path) -> tuple[Reader, str]:
    page = path.read_text()
    reader = Reader()
    reader.feed(page)
    return reader, page


def test_a_report_begins_with_the_result_describes_its_plots_and_loads_nothing(tmp_path):
    run = make_run(tmp_path / "run", "finished")
    (run / "plots" / "histogram.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    write_report(run, tmp_path / "report.html")
    reader, page = read(tmp_path / "report.html")
    result = page[: page.index("Training samples")]
    assert "samples the posterior (gap 0.009 nats)" in result and "0.998 [0.995, 0.999]" in result
    assert reader.images[0][1] == "Outcomes of base model and trained policy" and "<th>target</th>" in result
    assert len(reader.images) >= 18 and len(page) < 4_000_000
    for source, description in reader.images:
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,"))
        assert b"<svg" in svg and b"<script" not in svg and len(description) > 20
    assert reader.addresses == [source for source, _ in reader.images]
    assert "script" not in reader.tags and "link" not in reader.tags and "default-src 'none'" in page
    assert all(meaning in page for meaning in GLOSSARY.values())
    assert "Var(u)" in page and "learning_rate = 0.001" in page and "Finished" in page


def test_hostile_text_in_a_report_is_text(tmp_path):
    run = make_run(tmp_path / "run", "hostile")
    write_report(run, tmp_path / "report.html")
    reader, page = read(tmp_path / "report.html")
    assert reader.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "figure", "figcaption", "b", "img",
                           "table", "thead", "tbody", "tr", "th", "td", "span", "pre"}  # fmt: skip
    assert reader.handlers == [] and all(
        address.startswith("data:image/svg+xml;base64,") for address in reader.addresses
    )
    assert "\u202e" not in page and "\u200b" not in page and "\x1b" not in page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_has_no_markup_and_shows_hidden_characters(hostile):
    shown = text(hostile, max_length=10**6)
    assert not re.search(r"[<>\"']", shown) and "\x00" not in shown
    for character in hostile:
        if ord(character) < 0x20 and character != "\n":
            assert f"[U+{ord(character):04X}]" in shown


def test_a_run_without_a_step_has_nothing_to_report(tmp_path):
    with pytest.raises(ConfigError, match="no learner step yet"):
        write_report(make_run(tmp_path / "run", "empty"), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_run_without_a_history_is_reported_as_far_as_it_goes(tmp_path):
    write_report(make_run(tmp_path / "run", "no_history"), tmp_path / "report.html")
    reader, _ = read(tmp_path / "report.html")
    assert 5 <= len(reader.images) < 18
