"""Whatever fails while a process loads is the last line on the screen, in its own words."""

from pathlib import Path

import pytest

from tests.support.processes import Command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("override", "last_lines"),
    [
        (
            "task.name=tests.support.failing_start:ConfigErrorInReward",
            "ConfigError: task 'tests.support.failing_start:ConfigErrorInReward' rejects its options {}: the constructor "
            "raised ConfigError: the base model has a sliding window of 32 tokens. Choose another model.",
        ),
        (
            "task.name=tests.support.failing_start:RuntimeErrorInLearner",
            "TributaryError: the learner process failed to start: RuntimeError: no kernel image for this device",
        ),
        (
            "task.name=tests.support.failing_start:BareAssertInActor",
            "TributaryError: the actor process failed to start: AssertionError without a text, at ",
        ),
    ],
    ids=["own-error-in-a-reward-worker", "foreign-error-in-the-learner", "bare-assert-in-an-actor"],
)
def test_startup_error_blamed_on_memory__the_cause_is_the_last_line_instead(
    recipe: Path, tmp_path: Path, override: str, last_lines: str
) -> None:
    command = Command(
        *("train", str(recipe), override, "actors.engine=simulated", "--run", str(tmp_path / "run")),
        "--no-dashboard",
        RAY_raylet_start_wait_time_s="120",
    )
    output = command.finish(200)
    begin = output.rfind(last_lines)
    assert command.process.returncode == 2, output
    assert begin >= 0, output
    assert len(output[begin:].strip().splitlines()) <= 3, "it is the end of the output"
    for noise in ("memory is short", "Traceback", "retries remaining", "creation task"):
        assert noise not in output, output
