"""What a reader does with numbers: the first screen, plots, samples, and runs next to each other."""

import json
import re
from collections.abc import Callable

from playwright.sync_api import Locator, expect

from tests.browser.eye import Eye
from tests.browser.stages import Stages

OpenPage = Callable[[str], Eye]


def test_the_first_screen_of_a_finished_run_says_what_came_out(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.page.set_viewport_size({"width": 1400, "height": 900})
    looking.open("overview")
    result = looking.page.get_by_role("region", name="Result", exact=True).first
    expect(result).to_contain_text("Trained: samples the posterior (gap 0.009 nats).")
    expect(result.locator("tr", has_text="valid")).to_contain_text("0.998 [0.995, 0.999]")
    for name in ("Var(u)", "valid", "log R, mean", "completions cut off"):
        box = looking.page.locator(".figure", has_text=name).first.bounding_box()
        assert box and box["y"] + box["height"] < 900, name
    expect(looking.page.locator(".figure", has_text="valid").first).to_contain_text("evaluation 16.1 % → 99.8 %")
    looking.shoot("overview-first-screen-light-1400")
    for view in ("overview", "actors", "rewards"):
        looking.go(view)
        expect(looking.page.locator("main :is(td, dd):text-is('–')")).to_have_count(0)
    assert looking.wrong == []


def test_plots_are_smoothed_cut_to_a_range_and_folded_where_they_are_constant(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("learner")
    page = looking.page
    temperature = page.locator("section.plot", has_text="Reward temperature")
    expect(temperature).to_be_hidden()
    expect(page.locator(".constants")).to_contain_text("Reward temperature 1")
    page.get_by_role("button", name="show their plots").click()
    expect(temperature).to_be_visible()
    page.get_by_label("Smoothing").select_option("0.9")
    page.get_by_role("button", name="by tokens").click()
    expect(page.get_by_role("button", name="by tokens")).to_have_attribute("aria-pressed", "true")
    looking.settled()
    loss = page.locator("section.plot", has_text="Loss").first
    loss.locator(".y-range summary").click()
    loss.get_by_label("Loss: y axis from").fill("1")
    loss.get_by_label("Loss: y axis to").fill("30")
    loss.get_by_label("Loss: y axis to").press("Enter")
    loss.locator(".canvas").focus()
    page.keyboard.press("End")
    expect(loss.locator(".now")).to_contain_text("at tokens")
    script = "() => import('/static/lib/axes.js').then(({ smooth }) => smooth([2, null, 4, 4, 4], 0.5))"
    smoothed = page.evaluate(script)
    assert smoothed[0] == 2 and smoothed[1] is None and 3 < smoothed[2] < smoothed[3] < smoothed[4] < 4
    looking.shoot("learner-smoothed-light-1280")
    assert looking.serious() == [] and looking.wrong == []


def test_the_mark_of_an_event_carries_its_text(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("alerts").url)
    looking.open("learner")
    expect(looking.page.locator(".toolbar")).to_contain_text("▼ an alert")
    loss = looking.page.locator("section.plot", has_text="Loss").first
    loss.locator(".canvas").focus()
    looking.page.keyboard.press("Home")
    expect(loss.locator(".tip")).to_be_hidden()
    looking.page.keyboard.press("End")
    expect(loss.locator(".tip")).to_contain_text("canar")
    assert looking.wrong == []


def test_samples_show_prompt_fields_and_terms_and_are_grouped_searched_and_saved(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("samples")
    first = looking.page.locator("main .sample").first
    expect(first).to_contain_text("term base")
    expect(looking.page.locator("main .sample", has_text="answer 42").first).to_contain_text("A random integer")
    looking.page.get_by_label("Regular expression").fill("^4[0-2]$")
    looking.page.get_by_label("Regular expression").press("Enter")
    expect(looking.page.locator("main .tokens").first).to_have_text(re.compile("^4[012]"))
    looking.page.get_by_label("Sort").select_option("prompt")
    expect(looking.page.locator(".group-head").first).to_contain_text("A random integer drawn uniformly")
    with looking.page.expect_download() as started:
        looking.page.get_by_role("link", name="as JSON Lines").click()
    lines = started.value.path().read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert samples and all(re.fullmatch("4[0-2]", sample["text"]) and sample["prompt"]["text"] for sample in samples)
    assert looking.serious() == [] and looking.wrong == []


def test_runs_are_sorted_by_a_result_and_names_break_between_words_only(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("finished").url)
    looking.open("compare", "?runs=another,finished")
    heads = looking.page.get_by_role("region", name="Results").locator("thead th")
    expect(heads).to_have_text(["figure", "another, base", "another, trained", "finished, base", "finished, trained"])
    names = looking.page.locator(".compared .whole-words")
    assert names.first.evaluate("one => getComputedStyle(one).overflowWrap") == "normal"
    looking.page.get_by_label("Sort runs by").select_option("-kl_uniform")
    expect(heads).to_have_text(["figure", "finished, base", "finished, trained", "another, base", "another, trained"])
    assert looking.wrong == []


def test_runs_of_several_seeds_are_one_line_with_a_band(stages: Stages, eye: OpenPage) -> None:
    looking = eye(stages.at("seeds").url)
    looking.open("compare", "?runs=seeds,second,third,other&curves=learner.loss")
    plot = looking.page.locator("section.plot").first
    entries = plot.locator(".legend .entry")
    expect(entries).to_have_count(2)
    expect(entries.first).to_contain_text("mean of 3 seeds")
    expect(entries.last).to_contain_text("other")
    plot.get_by_role("button", name="show numbers as a table").click()
    heads = plot.locator(".table thead th")
    expect(heads.nth(2)).to_contain_text("high")
    oldest = plot.locator(".table tbody tr").last.locator("td, th").all_inner_texts()  # a step that all runs reached
    mean, high, low = map(float, oldest[1:4])
    assert low <= mean <= high
    plot.get_by_role("button", name="show numbers as a table").click()
    assert _coloured_pixels(plot) > 1000, "the mean, its band and the other run are drawn"
    for entry in entries.all():
        entry.click()
    assert _coloured_pixels(plot) < 100, (
        "marks of values that are not finite: the edges of a band are hidden with its mean"
    )
    looking.page.get_by_role("button", name="seeds as one line").click()
    expect(entries).to_have_count(4)
    assert looking.serious() == [] and looking.wrong == []


def _coloured_pixels(plot: Locator) -> int:
    """Pixels of the plot's drawing that are not grey, as axes and grid are."""
    count: int = plot.locator("canvas").evaluate(
        """(canvas) => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) {
                const [red, green, blue, alpha] = data.subarray(i, i + 4);
                count += alpha > 20 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40;
            }
            return count;
        }"""
    )
    return count
