"""The end of a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buffer.errors import TributaryError
from deploy.driver import training
from deploy.driver.training import Training
from tests.unit.test_live_view import a_console, printed


def test_a_learner_that_dies_during_the_certificate_costs_the_certificate_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(*_: Any) -> None:
        raise TributaryError("the process of the learner died.")

    monkeypatch.setattr(training, "strings_of_run", lambda *_: None)
    monkeypatch.setattr(training, "judged_prompts", lambda _: [])
    monkeypatch.setattr(training, "certify", dies)
    console = a_console(width=200)
    run: Any = SimpleNamespace(
        _setup=SimpleNamespace(checked=None, folder=SimpleNamespace(path=Path("runs/a")), console=console),
        _system=SimpleNamespace(log_q=None),
        _observers=SimpleNamespace(show=lambda *_: None),
        _progress=None,
        _stop=False,
    )
    assert Training._certify(run, {}, {}, 1.0) is None
    assert "No certificate: the process of the learner died. To get one: tributary evaluate --run runs/a" in printed(
        console
    )
