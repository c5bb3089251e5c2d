"""Ctrl-C and SIGTERM: when they raise, and when they only leave their name."""

import io
import signal
import sys

import pytest
from rich.console import Console

from deploy.cluster.placement import own_sigterm_handler
from deploy.driver.stop_signal import StopSignal, exit_on_signal

Number = signal.Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_a_start_and_lets_training_end_its_step(number: Number) -> None:
    with StopSignal() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert stop.name == number.name
    with StopSignal() as stop:
        stop.starting = False
        assert not stop
        signal.raise_signal(number)
        assert stop and stop.name == number.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_checks_before_a_run_ends_with_one_sentence_and_exit_0(number: Number) -> None:
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(SystemExit) as ended, exit_on_signal(console):
        signal.raise_signal(number)
    assert ended.value.code == 0
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told == f"Stopped by {number.name} before training began: nothing was learned.\n"


@pytest.mark.parametrize("starting", [True, False])
def test_a_signal_sent_twice_at_once_as_by_timeout_is_one_and_a_later_one_interrupts(starting: bool) -> None:
    now = 0.0
    with StopSignal(lambda: now) as stop:
        stop.starting = False
        signal.raise_signal(signal.SIGTERM)
        stop.starting = starting
        now = 0.9
        signal.raise_signal(signal.SIGTERM)
        now = 1.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGTERM", "the first one"


def test_sigterm_while_ray_starts_is_the_run_s_signal_not_the_exit_that_ray_makes_of_it() -> None:
    with StopSignal() as stop:
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), own_sigterm_handler():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
            signal.raise_signal(signal.SIGTERM)
        assert stop.name == "SIGTERM" and signal.getsignal(signal.SIGTERM) == handler
