"""Interaction with the page: reconnecting, pausing, zooming, downloads, keys, themes, login."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Locator, expect

from buffer.server.redis_server import RedisServer
from deploy.dashboard.views.glossary import GLOSSARY
from tests.browser.eye import ALL_DRAWN, Eye
from tests.browser.stages import TOKEN, Stages
from tests.support.fixture_runs import live_run
from tests.support.running import running

OpenPage = Callable[[str], Eye]


def test_page_reconnects_when_the_server_comes_back(tmp_path: Path, eye: OpenPage) -> None:
    with live_run(tmp_path / "run", steps=4000) as folder:
        with running("--run", str(folder)) as first:
            looking, port = eye(first.url), urlsplit(first.url).port
            looking.open("overview")
            expect(_connection(looking)).to_have_text("● live")
        expect(_connection(looking)).to_contain_text("disconnected", timeout=20_000)
        expect(looking.page.get_by_role("alert")).to_contain_text("retries every few seconds")
        before = _step(looking)
        with running("--run", str(folder), port=port or 0):
            expect(_connection(looking)).to_have_text("● live", timeout=20_000)
            expect(looking.page.get_by_role("alert")).to_have_count(0)
            looking.page.wait_for_timeout(100)
            expect(looking.page.locator(".facts dd").first).not_to_have_text(f"{before} of 4,000", timeout=10_000)
            assert _step(looking) > before
    assert [one for one in looking.wrong if "ERR_" not in one] == []


def test_a_buffer_without_a_run_is_shown_and_the_end_of_its_server_is_reported(tmp_path: Path, eye: OpenPage) -> None:
    with RedisServer.start(tmp_path / "redis") as redis, running("--redis", redis.url, "--name", "lone") as server:
        looking = eye(server.url)
        for view in ("buffer", "overview", "rewards", "posterior", "learner", "actors", "samples", "compare", "events"):
            looking.open(view)
        looking.open("buffer")
        expect(looking.page.locator("main")).to_contain_text("Read from Redis at")
        redis.kill()
        expect(looking.page.locator("main")).to_contain_text("does not answer", timeout=40_000)
        expect(looking.page.locator("main")).to_contain_text("The last reading, from")
        expect(_connection(looking)).to_have_text("✕ Redis does not answer")
        assert looking.serious() == []
        looking.shoot("buffer-lone_redis_killed-light-1280")
        assert looking.wrong == []


def test_a_paused_page_stands_still_and_catches_up(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("live").url)
    looking.open("learner")
    looking.page.get_by_role("button", name="pause").click()
    expect(_connection(looking)).to_contain_text("updates waiting", timeout=10_000)
    loss = _card(looking, "Loss")
    loss.get_by_role("button", name=re.compile("table")).click()
    newest = loss.locator("tbody th").first.inner_text()
    expect(_connection(looking)).to_contain_text("3 updates", timeout=10_000)
    assert loss.locator("tbody th").first.inner_text() == newest
    looking.page.get_by_role("button", name="resume").click()
    expect(loss.locator("tbody th").first).not_to_have_text(newest, timeout=10_000)


def test_the_address_holds_what_is_shown(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("learner")
    _card(looking, "Time of a step").get_by_role("button", name=re.compile("log axis")).click()
    _card(looking, "Loss").get_by_role("button", name=re.compile("table")).click()
    looking.page.get_by_role("button", name="by time").click()
    looking.settled()
    address = looking.page.url
    again = eye(stages.at("finished").url)
    again.page.goto(address)
    again.settled()
    expect(again.page.get_by_role("button", name="by time")).to_have_attribute("aria-pressed", "true")
    expect(_card(again, "Time of a step").get_by_role("button", name=re.compile("log axis"))).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(_card(again, "Loss").get_by_role("region", name="Loss: numbers")).to_be_visible()
    assert again.wrong == []


def test_a_value_that_is_not_finite_is_marked_in_plot_and_table(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("learner")
    loss = _card(looking, "Loss")
    expect(loss).to_contain_text("2 values are not finite")
    loss.get_by_role("button", name=re.compile("table")).click()
    expect(loss.locator("td", has_text="not finite")).to_have_count(2)


def test_dragging_across_a_plot_zooms_all_and_one_click_undoes_it(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("learner")
    box = _card(looking, "Loss").locator(".u-over").bounding_box()
    assert box
    looking.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40)
    looking.page.mouse.down()
    looking.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 60, steps=4)
    looking.page.mouse.up()
    expect(looking.page.locator(".toolbar")).to_contain_text(re.compile(r"step \d+(\.\d+)? to \d+"))
    assert "from=" in looking.page.url and "to=" in looking.page.url
    looking.page.get_by_role("button", name="show all").click()
    expect(looking.page.locator(".toolbar")).to_contain_text("Drag across a plot")


def test_downloads_hold_the_numbers_and_the_picture(stages: Stages, eye: OpenPage, tmp_path: Path) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("learner")
    loss = _card(looking, "Loss")
    csv, png = (_download(looking, loss, kind, tmp_path) for kind in ("CSV", "PNG"))
    assert len(csv.read_text().splitlines()) == 1 + 160  # a header and one line per step
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000
    looking.open("buffer")
    bins = _download(looking, _card(looking, "Priorities"), "CSV", tmp_path)
    assert bins.read_text().startswith("priority,trajectories")


def test_keys_open_views_and_read_a_plot_point_by_point(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("overview")
    looking.page.keyboard.press("5")
    expect(looking.page.get_by_role("heading", name="Learner", level=1)).to_be_visible()
    looking.settled()
    loss = _card(looking, "Loss")
    loss.get_by_role("img").focus()
    looking.page.keyboard.press("Home")
    expect(loss.locator("output")).to_contain_text("at step 1")
    looking.page.keyboard.press("ArrowRight")
    expect(loss.locator("[aria-live]")).to_contain_text("at step 2")
    looking.page.keyboard.press("?")
    dialog = looking.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("checkbox").uncheck()
    dialog.get_by_role("button", name="Close").click()
    looking.page.keyboard.press("1")
    expect(looking.page.get_by_role("heading", name="Learner", level=1)).to_be_visible()


def test_the_chosen_theme_outlives_a_reload(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("overview")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = looking.value(ground)
    looking.page.get_by_role("button", name=re.compile("dark colours")).click()
    dark = looking.value(ground)
    looking.open("overview")
    assert light != dark and looking.value(ground) == dark


def test_the_right_token_lets_in_and_scripts_cannot_read_it(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("token").url)
    looking.open("learner")
    looking.page.get_by_label("Token").fill(TOKEN)
    looking.page.get_by_role("button", name="Open").click()
    expect(looking.page.get_by_role("heading", name="Learner", level=1)).to_be_visible()
    looking.settled()
    assert looking.value("document.cookie") == ""
    assert TOKEN not in looking.page.url and TOKEN not in str(
        looking.value("JSON.stringify({...localStorage, ...sessionStorage})")
    )


def test_an_address_with_the_token_opens_the_page_and_loses_the_token(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("token").url)
    looking.page.goto(f"{stages.at('token').url}#token={TOKEN}")
    looking.settled()
    expect(looking.page.locator("form.login")).to_have_count(0)
    assert TOKEN not in looking.page.url
    looking.page.goto("about:blank")
    looking.page.context.clear_cookies()
    looking.page.goto(f"{stages.at('token').url}#token=wrong-and-of-enough-characters")
    expect(looking.page.get_by_role("heading", name="This dashboard needs a token")).to_be_visible()


def test_a_printed_page_has_every_plot(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.page.set_viewport_size({"width": 1280, "height": 400})
    looking.open("buffer")
    assert not looking.page.evaluate(ALL_DRAWN), "plots outside the window must not be drawn before printing"
    looking.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert looking.page.evaluate(ALL_DRAWN)


def test_pages_within_samples_and_compare_are_accessible(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("samples", "?sort=reward&colour=gain")
    looking.page.locator("main .sample a").first.click()
    looking.settled()
    for theme in ("light", "dark"):
        looking.look(theme, 1280)
        looking.unroll()
        looking.shoot(f"sample-finished-{theme}-1280")
        assert looking.serious() == []
    looking.page.locator(".tokens").focus()
    looking.page.keyboard.press("ArrowRight")
    expect(looking.page.locator(".detail")).to_contain_text("log q(⊤ after it)")
    for view, query in (("samples", "?show=compare"), ("compare", "?runs=finished,another")):
        looking.open(view, query)
        looking.unroll()
        looking.shoot(f"{view}-two-finished-dark-1280")
        assert looking.serious() == [], view
    expect(_card(looking, "Loss")).to_be_visible()
    assert looking.wrong == []


def test_terms_are_explained_where_a_reader_first_meets_them(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("posterior")
    expect(looking.page.locator(".glossary dt")).to_have_text(list(GLOSSARY))
    expect(looking.page.locator(".glossary dd")).to_have_text(list(GLOSSARY.values()))
    for view, term in (("overview", "u"), ("samples", "log R"), ("samples", "⊤")):
        looking.open(view)
        expect(looking.page.locator(f"main [title*='{GLOSSARY[term]}']").first).to_be_visible()


def _card(looking: Eye, title: str) -> Locator:
    return looking.page.locator("section.plot", has=looking.page.get_by_role("heading", name=title, exact=True))


def _connection(looking: Eye) -> Locator:
    return looking.page.locator(".connection")


def _step(looking: Eye) -> int:
    return int(looking.page.locator(".facts dd").first.inner_text().split(" ")[0].replace(",", ""))


def _download(looking: Eye, card: Locator, kind: str, folder: Path) -> Path:
    with looking.page.expect_download() as started:
        card.get_by_role("button", name=re.compile(f"download {kind}")).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path
