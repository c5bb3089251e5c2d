"""Text of a model stays text: it cannot run, load or hide anything."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.eye import Eye
from tests.browser.stages import Stages
from tests.support.hostile import HOSTILE

OpenPage = Callable[[str], Eye]
FOREIGN = "img, script, iframe, object, embed, video, audio, math, marquee, template, style, link, base, meta, form"
HIDES = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff\U000e0000-\U000e0fff]"
)


def test_a_hundred_hostile_samples_stay_text(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("hostile").url)
    seen: set[str] = set()
    for page in range(6):
        looking.open("samples", f"?page={page}")
        seen |= set(looking.page.locator("main .tokens").all_text_contents())
        _check_harmless(looking, f"samples, page {page}")
    assert len(seen) >= 100


def test_hostile_text_is_harmless_in_every_view(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("hostile").url)
    for view in ("overview", "buffer", "rewards", "posterior", "learner", "actors", "events", "compare"):
        looking.open(view)
        _check_harmless(looking, view)
    looking.open("samples", "?show=compare&prompt=" + "%3Cimg%20src%3Dx%20onerror%3Dwindow.__hit%3D1%3E")
    _check_harmless(looking, "before and after")
    looking.open("samples")
    looking.page.locator("main .sample a").first.click()
    expect(looking.page.get_by_role("heading", name="Prefix by prefix")).to_be_visible()
    _check_harmless(looking, "one sample")


def test_alerts_that_quote_hostile_text_are_harmless(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("alerts").url)
    for view in ("overview", "buffer", "rewards", "events"):
        looking.open(view)
        _check_harmless(looking, view)


def test_every_hiding_character_is_made_visible(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("hostile").url)
    looking.open("events")
    script = "texts => import('/static/lib/text.js').then(({ oneLine }) => texts.map((text) => oneLine(text, 1e6)))"
    for text, shown in zip(HOSTILE, looking.page.evaluate(script, HOSTILE), strict=True):
        assert not HIDES.search(shown), ascii(text)
        assert text == "" or shown != "", ascii(text)


def _check_harmless(looking: Eye, where: str) -> None:
    assert looking.value("window.__hit") is None, where
    assert looking.page.locator(f"main :is({FOREIGN})").count() == 0, where
    assert not HIDES.search(looking.page.locator("main").text_content() or ""), where
    assert looking.wrong == [], where
