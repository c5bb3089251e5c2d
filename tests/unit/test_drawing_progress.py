"""Drawing tells how far it is."""

from deploy.driver.reporting_engine import DrawingProgress


def test_a_line_every_ten_seconds_says_how_many_strings_are_drawn_and_how_long_the_rest_takes() -> None:
    lines: list[str] = []
    now = 100.0
    progress = DrawingProgress(lines.append, lambda: now)
    for second in range(25):
        now = 200.0 + second  # an engine takes its time to start
        progress.step(finished=10 if second > 10 else 0, waiting=240 - 10 * max(second - 10, 0))
    assert lines == ["0 of 240 strings drawn", "100 of 240 strings drawn (5/s, 0:28 left)"]


def test_strings_of_another_model_are_counted_from_the_first_again() -> None:
    lines: list[str] = []
    now = 0.0
    progress = DrawingProgress(lines.append, lambda: now)
    progress.step(finished=500, waiting=0)
    now = 1000.0
    progress.step(finished=5, waiting=95)
    now = 1010.0
    progress.step(finished=5, waiting=90)
    assert lines == ["10 of 100 strings drawn (1/s, 1:30 left)"]
