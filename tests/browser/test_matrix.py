"""Every view in every state, in both themes, at the width of a phone and of a desktop."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.eye import THEMES, WIDTHS, Eye
from tests.browser.stages import EXPECTED_TEXT, STATES, Stages

VIEWS = ("overview", "buffer", "rewards", "posterior", "learner", "actors", "samples", "compare", "events")
OpenPage = Callable[[str], Eye]


@pytest.mark.parametrize("state", STATES)
def test_every_view_is_clean_and_accessible(state: str, stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at(state).url)
    if state == "token":
        looking.excused = re.compile("status of 401")
    problems: list[str] = []
    for view in VIEWS:
        looking.open(view)
        if state == "token":
            _try_wrong_token(looking)
        elif view == "overview":
            expect(looking.page.locator("body")).to_contain_text(EXPECTED_TEXT[state])
        for theme in THEMES:
            for width in WIDTHS:
                looking.look(theme, width)
                looking.settled()
                looking.unroll()
                looking.shoot(f"{view}-{state}-{theme}-{width}")
                where = f"{view}, {theme}, {width} px: "
                problems += [where + one for one in looking.serious()]
                if (pixels := looking.too_wide()) > 0:
                    problems.append(f"{where}{pixels} px too wide")
        problems += [f"{view}: {one}" for one in looking.wrong]
        looking.wrong.clear()
    assert problems == []


def _try_wrong_token(looking: Eye) -> None:
    looking.page.get_by_label("Token").fill("not-the-token-at-all")
    looking.page.get_by_role("button", name="Open").click()
    expect(looking.page.get_by_role("alert")).to_contain_text("token")
