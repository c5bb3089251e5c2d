"""LiveView: single lines without a terminal, complete on one, dashes for missing values."""

import io
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from buffer.store.statistics import BufferStats
from deploy.formatting import clock, figure
from deploy.telemetry.before_after_table import before_after_table
from deploy.telemetry.live_panel import SPARK_WIDTH, curves, shown, sparkline
from deploy.telemetry.live_view import LiveView, next_commands
from deploy.telemetry.snapshot import Snapshot

STATS = BufferStats(
    size=640, capacity=20000, arrivals=643, inserted=640, duplicates=3, evicted=0, expired=0, max_draws_reached=0, drawn=640, waived=0,
    updated=640, update_misses=0, quarantined=0, near_duplicates=0, refused={}, fresh_waiting=57, prompts=1, newest_version=4,
    last_insert_age_s=1, mean_age_s=3.0, oldest_age_s=9, reward_histogram={-4.5: 640}, staleness_histogram={0: 640},
    priority_histogram={1.0: 640}, priority_ess=640.0,
)  # fmt: skip


def a_view(step: int, elapsed_s: float, phase: str = "training", waits: tuple[str, ...] = ()) -> Snapshot:
    row: dict[str, Any] = {
        "step": step, "loss": 1.5, "var_u": math.nan, "log_z": 4.615, "staleness_mean": 0.5, "staleness_max": 2,
        "labels": {"valid": 0.25, "length": 7.5}, "terms": {"digits": -1.0},
    }  # fmt: skip
    actor = {
        "name": "rollout-0",
        "trajectories": 300,
        "tokens": 900,
        "seconds": 10.0,
        "tokens_per_s": 90.0,
        "version": 4,
    }
    return Snapshot(row if step else {}, STATS, [actor], phase, elapsed_s, waits)


def a_console(**options: Any) -> Console:
    return Console(file=io.StringIO(), **options)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_a_phase_prints_one_line_in_ten_seconds() -> None:
    console = a_console()
    with LiveView(console, "title", 100) as view:
        for tenth in range(250):  # 0.0 to 24.9 s
            view.update(a_view(tenth // 10 + 1, tenth / 10))
        lines = printed(console).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["title", "[0:00] training", "[0:10] training", "[0:20] training"]


def test_a_new_phase_is_printed_at_once() -> None:
    console = a_console()
    with LiveView(console, "title", 100) as view:
        view.update(a_view(0, 0.0, "starting the engines"))
        view.update(a_view(0, 0.1, "base model: 2,000 samples"))
    assert "[0:00] base model: 2,000 samples" in printed(console).splitlines()


def test_a_log_has_no_control_codes_and_no_wrapped_lines() -> None:
    console = a_console(width=40)
    with LiveView(console, "title [red]", 100) as view:
        view.update(a_view(3, 1.0, waits=("learner waits for data: 12 of 64 trajectories, 0 of 2 actors alive",)))
    assert "\x1b" not in printed(console)
    assert len(printed(console).splitlines()) == 2
    assert printed(console).startswith("title [red]\n")
    assert "12 of 64 trajectories" in printed(console)


def test_the_last_step_is_printed_even_when_the_last_line_is_recent() -> None:
    console = a_console()
    with LiveView(console, "title", 100) as view:
        view.update(a_view(99, 50.0))
        view.update(a_view(100, 50.5))
    assert "step 100/100" in printed(console).splitlines()[-1]


def test_time_left_follows_the_pace_of_the_steps_seen() -> None:
    console = a_console()
    with LiveView(console, "title", 10) as view:
        view.update(a_view(1, 100.0))
        view.update(a_view(3, 110.0))  # 5 s a step, 7 to go
    first, last = printed(console).splitlines()[1:]
    assert "left" not in first and last.endswith("0:35 left")


def test_the_panel_shows_every_figure_and_the_wait_at_eighty_columns() -> None:
    console = a_console(force_terminal=True, color_system=None, width=80, height=40, _environ={"TERM": "xterm"})
    with LiveView(console, "integer", 80) as view:
        view.update(a_view(40, 60.0, waits=("learner waits for data",)))
    shown_words = printed(console)
    for word in (
        "integer", "step 40 of 80", "1.5", "4.6", "25 %", "7.5", "640 of 20,000", "0.5 / 2", "30.0", "rollout-0",
        "90 tokens/s", "learner waits for data",
    ):  # fmt: skip
        assert word in shown_words, word
    assert "…" not in shown_words
    assert "nan" not in shown_words


def test_the_panel_can_be_drawn_before_the_first_report() -> None:
    console = a_console(force_terminal=True, color_system=None, width=50, _environ={"TERM": "xterm"})
    with LiveView(console, "integer", 80) as view:
        view.update(Snapshot({}, None, [], "starting the engines", 0.0))
    assert "starting the engines" in printed(console)


def test_a_sparkline_covers_all_values_in_its_width() -> None:
    line = sparkline([float(k) for k in range(1000)], SPARK_WIDTH)
    assert len(line) == SPARK_WIDTH
    assert line[0] == "▁" and line[-1] == "█" and list(line) == sorted(line)


def test_a_sparkline_leaves_a_space_for_nan_and_survives_constants_and_nothing() -> None:
    assert sparkline([0.0, math.nan, 7.0], 16) == "▁ █"
    assert sparkline([2.0, 2.0], 16) == "▁▁"
    assert sparkline([math.nan], 16) == " "
    assert sparkline([], 16).strip() == ""


def test_the_terms_of_the_reward_stand_for_labels_that_a_task_lacks() -> None:
    row = a_view(3, 1.0).row | {"labels": {}, "terms": {"base": -20.0, "length": -2.0, "_note": 1.0, "exact": 0.25}}
    assert curves(row)["exact"] == 0.25 and not {"base", "length", "_note"} & curves(row).keys()
    assert "exact" not in curves(row | {"labels": {"valid": 1.0}})


def test_only_labels_between_zero_and_one_are_shares() -> None:
    assert shown("valid", 0.256) == "26 %"
    assert shown("length", 7.5) == "7.5"
    assert shown("loss", 0.256) == "0.256"
    assert shown("valid", math.nan) == "-"


def test_hours_appear_when_there_are_some() -> None:
    assert (clock(59.6), clock(3599), clock(3661)) == ("1:00", "59:59", "1:01:01")


def test_the_table_keeps_metrics_that_only_one_side_has() -> None:
    console = a_console(width=80)
    console.print(before_after_table({"valid": 0.15}, {"valid": 0.98, "new": 2000.0}, {"valid": "share in range"}))
    assert [column.header for column in before_after_table({}, {}, {}).columns] == [
        "metric",
        "base model",
        "trained",
        "target",
    ]
    lines = [line.split() for line in printed(console).splitlines()]
    assert (
        ["valid", "0.15", "0.98"] in lines
        and ["valid:", "share", "in", "range"] in lines
        and ["new", "-", "2,000"] in lines
    )


def test_the_next_commands_name_the_run() -> None:
    commands = next_commands(Path("runs/a"), 160, open_steps=0)
    assert "tributary sample --run runs/a -n 20" in commands
    assert "tributary evaluate --run runs/a" in commands
    assert "tributary train --resume runs/a learner.steps=320" in commands and "runs/a/adapter" in commands
    stopped = next_commands(Path("runs/a"), 160, open_steps=19)
    assert "tributary train --resume runs/a  # the last 19 steps" in stopped and "learner.steps" not in stopped


def test_a_figure_has_three_digits_and_zero_has_no_sign() -> None:
    assert [figure(x) for x in (0.12345, 1234567.0, -0.0, math.nan)] == ["0.123", "1,234,567", "0", "-"]
